"""Signatures under reports of drills: by the key of the fleet's CA, over a text with a prefix of its own.

The prefix keeps such a signature from being taken for one under anything else that this key signs (FIPS 186-5).
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

_PREFIX: Final = b"locci drill report\n"


def sign(key: ec.EllipticCurvePrivateKey, report: str) -> bytes:
    """The signature (DER) under a report."""
    return key.sign(_PREFIX + report.encode(), ec.ECDSA(hashes.SHA256()))


def is_genuine(ca_pem: str, report: str, signature: bytes) -> bool:
    """Whether one of the CAs in `ca_pem` has signed the report. Raises ValueError when that is no PEM."""
    for certificate in x509.load_pem_x509_certificates(ca_pem.encode()):
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            continue
        try:
            key.verify(signature, _PREFIX + report.encode(), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            continue
        return True
    return False
