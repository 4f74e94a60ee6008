"""What is published of a zone's keys (RFC 4034, sections 2 and 5; RFC 8078)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from routing.core import wire
from routing.core.model import SigningKey

ALGORITHM: Final = 13
"""ECDSAP256SHA256 (RFC 6605, section 4)."""
_FLAGS: Final = 257
"""A zone key that is a secure entry point: it signs all (RFC 4034, section 2.1.1)."""
_PROTOCOL: Final = 3
_SHA256: Final = 2


def dnskey(key: SigningKey) -> bytes:
    """The data of its DNSKEY record (RFC 4034, section 2.1)."""
    return _FLAGS.to_bytes(2, "big") + bytes((_PROTOCOL, ALGORITHM)) + key.public


def key_tag(key: SigningKey) -> int:
    """A short name for a key (RFC 4034, appendix B)."""
    data = dnskey(key)
    total = sum(byte if at & 1 else byte << 8 for at, byte in enumerate(data))
    return (total + (total >> 16)) & 0xFFFF


def ds(origin: bytes, key: SigningKey) -> bytes:
    """The data of the DS record that the parent is to have (RFC 4034, section 5.1; SHA-256 by RFC 4509)."""
    digest = hashlib.sha256(origin + dnskey(key)).digest()
    return key_tag(key).to_bytes(2, "big") + bytes((ALGORITHM, _SHA256)) + digest


def own_records(
    origin: bytes, ttl_s: int, keys: Iterable[SigningKey]
) -> dict[bytes, tuple[tuple[bytes, int, bytes], ...]]:
    """What a signed zone has at its own name: the keys, and what the parent may take over by itself (RFC 8078)."""
    found: dict[bytes, tuple[tuple[bytes, int, bytes], ...]] = {}
    for key in keys:
        for kind, data in ((wire.DNSKEY, dnskey(key)), (wire.CDNSKEY, dnskey(key)), (wire.CDS, ds(origin, key))):
            found[kind] = (*found.get(kind, ()), (kind, ttl_s, data))
    return found
