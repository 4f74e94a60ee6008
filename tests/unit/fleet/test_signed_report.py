"""Reports: what the CA signed is genuine, and nothing else is."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fleet.signed_report import is_genuine, sign


def authority() -> tuple[ec.EllipticCurvePrivateKey, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA")])
    begin = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, begin, begin + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key, certificate.public_bytes(serialization.Encoding.PEM).decode()


def test_what_was_signed_is_genuine_and_nothing_else() -> None:
    (key, pem), (_, other) = authority(), authority()
    signature = sign(key, "passed")
    assert is_genuine(pem, "passed", signature)
    assert is_genuine(other + pem, "passed", signature)
    assert not is_genuine(other, "passed", signature)
    assert not is_genuine(pem, "Passed", signature)
    assert not is_genuine(pem, "passed", signature[:-1] + bytes([signature[-1] ^ 1]))
    assert not is_genuine(pem, "passed", key.sign(b"passed", ec.ECDSA(hashes.SHA256())))
