"""What must be true of a certificate before edges show it to clients (RFC 5280; RFC 9525 on names)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from google.protobuf.wrappers_pb2 import BytesValue

from control_plane.ports import Vault
from fleet.errors import LocciError, invalid
from fleet.ids import check_hostname
from locci.v1 import certificate_pb2

_PEM_BYTES_MAX: Final = 64 * 1024
_CHAIN_MAX: Final = 10
_NAMES_MAX: Final = 200
_RSA_BITS_MIN: Final = 2048


@dataclass(frozen=True, slots=True)
class Examined:
    """What a certificate says of itself; times in seconds since 1970. `key_pem` is the private key as PKCS #8."""

    hostnames: tuple[str, ...]
    issuer: str
    fingerprint: str
    begin_at: float
    expire_at: float
    key_pem: bytes


def examine(chain_pem: str, private_key_pem: str, now: float) -> Examined:
    """Checks a chain and its key. Raises INVALID_ARGUMENT with what is wrong."""
    chain = _chain(chain_pem)
    leaf = chain[0]
    key = _key(private_key_pem)
    if _public(key.public_key()) != _public(leaf.public_key()):
        raise _wrong("private_key_pem", "the key does not belong to the first certificate of the chain")
    expire_at = leaf.not_valid_after_utc.timestamp()
    if expire_at <= now:
        raise _wrong("chain_pem", f"the certificate has ended on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    names = _names(leaf)
    _check_usage(leaf)
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return Examined(
        names,
        leaf.issuer.rfc4514_string(),
        leaf.fingerprint(hashes.SHA256()).hex(),
        leaf.not_valid_before_utc.timestamp(),
        expire_at,
        key.private_bytes(serialization.Encoding.PEM, form, plain),
    )


def seal_key(vault: Vault, name: str, key_pem: bytes) -> BytesValue:
    """What the store keeps of a private key."""
    return BytesValue(value=vault.seal(key_pem, f"{name}/key"))


def unseal_key(vault: Vault, name: str, sealed: BytesValue) -> str:
    """The private key in PEM. Raises FAILED_PRECONDITION when it does not open."""
    return vault.open(sealed.value, f"{name}/key").decode()


def describe(row: certificate_pb2.Certificate, found: Examined) -> None:
    """Puts what was found into a row, and the private key out of it."""
    row.ClearField("private_key_pem")
    row.expiring = False
    row.ClearField("hostnames")
    row.hostnames.extend(found.hostnames)
    row.issuer, row.fingerprint = found.issuer, found.fingerprint
    row.begin_time.FromSeconds(int(found.begin_at))
    row.expire_time.FromSeconds(int(found.expire_at))


def _chain(chain_pem: str) -> list[x509.Certificate]:
    if not chain_pem.strip():
        raise _wrong("chain_pem", "is missing")
    if len(chain_pem) > _PEM_BYTES_MAX:
        raise _wrong("chain_pem", f"is longer than {_PEM_BYTES_MAX} bytes")
    try:
        chain = x509.load_pem_x509_certificates(chain_pem.encode())
        for number, (one, issuer) in enumerate(itertools.pairwise(chain), 1):
            try:
                one.verify_directly_issued_by(issuer)
            except (InvalidSignature, ValueError, TypeError) as error:
                message = f"certificate {number} was not issued by certificate {number + 1}: the host's own comes first"
                raise _wrong("chain_pem", message) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _wrong("chain_pem", f"is no chain of PEM certificates: {error}") from error
    if len(chain) > _CHAIN_MAX:
        raise _wrong("chain_pem", f"holds {len(chain)} certificates, more than {_CHAIN_MAX}")
    return chain


def _key(private_key_pem: str) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    if not private_key_pem.strip():
        raise _wrong("private_key_pem", "is missing")
    try:
        key = serialization.load_pem_private_key(private_key_pem.encode()[:_PEM_BYTES_MAX], None)
    except TypeError as error:
        raise _wrong("private_key_pem", "has a passphrase: take it off first (`openssl pkey`)") from error
    except (ValueError, UnsupportedAlgorithm):
        # Without the cause: it might quote the key.
        raise _wrong("private_key_pem", "is no private key in PEM") from None
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < _RSA_BITS_MIN:
        raise _wrong("private_key_pem", f"has {key.key_size} bits; RSA needs {_RSA_BITS_MIN}")
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise _wrong("private_key_pem", "must be an ECDSA or RSA key: browsers know no other")
    return key


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = [name.lower() for name in extension.get_values_for_type(x509.DNSName)]
    except x509.ExtensionNotFound:
        found = []
    except ValueError as error:
        raise _wrong("chain_pem", f"its extensions cannot be read: {error}") from error
    if not found or len(found) > _NAMES_MAX:
        raise _wrong("chain_pem", f"the certificate has {len(found)} DNS names; it needs 1 to {_NAMES_MAX}")
    for name in found:
        check_hostname(name.removeprefix("*."), "certificate.chain_pem")
    return tuple(dict.fromkeys(found))


def _check_usage(leaf: x509.Certificate) -> None:
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usage):
        raise _wrong("chain_pem", "the certificate is not for servers (its extended key usage lacks serverAuth)")


def _public(key: object) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.DER, form)  # type: ignore[attr-defined, no-any-return]


def _wrong(field: str, what: str) -> LocciError:
    return invalid(f"certificate.{field}", f"certificate.{field}: {what}")
