"""Keys of zones: read from snapshots, used to sign (ECDSA P-256 with SHA-256, RFC 6605)."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from fleet.errors import LocciError, invalid
from locci.v1 import resource_pb2
from routing.adapters.resource_body import body_of
from routing.core.model import SigningKey

_KEY_BYTES: Final = 32
_SIGN: Final = ec.ECDSA(hashes.SHA256())


def read(name: str, resource: resource_pb2.Resource) -> tuple[SigningKey, ...]:
    """The keys in a resource, or INVALID_ARGUMENT."""
    body = body_of(name, resource, "zone_keys", resource.zone_keys.origin)
    if not any(key.active for key in body.keys):
        raise invalid("keys", "keys: none is active, so nothing could be signed")
    return tuple(SigningKey(_public(key.private_key), key.private_key, key.active) for key in body.keys)


def sign(private: bytes, message: bytes) -> bytes:
    """r and s of the signature, 32 bytes each."""
    r, s = decode_dss_signature(_private(private).sign(message, _SIGN))
    return r.to_bytes(_KEY_BYTES, "big") + s.to_bytes(_KEY_BYTES, "big")


def _public(private: bytes) -> bytes:
    try:
        numbers = _private(private).public_key().public_numbers()
    except ValueError as error:
        raise _bad() from error
    return numbers.x.to_bytes(_KEY_BYTES, "big") + numbers.y.to_bytes(_KEY_BYTES, "big")


def _bad() -> LocciError:
    return invalid("keys", "keys: one is no private key of the curve P-256")


@lru_cache(maxsize=256)
def _private(private: bytes) -> ec.EllipticCurvePrivateKey:
    if len(private) != _KEY_BYTES:
        raise ValueError("not 32 bytes")
    return ec.derive_private_key(int.from_bytes(private, "big"), ec.SECP256R1())
