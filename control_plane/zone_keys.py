"""The keys of signed zones: made here, sealed in the store, given to DNS servers and to nobody else."""

from __future__ import annotations

import base64
from typing import Any, Final

import dns.dnssec
import dns.name
import dns.rdata
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.wrappers_pb2 import BytesValue

from control_plane.ports import Vault
from fleet.errors import failed_precondition, invalid
from locci.v1 import resource_pb2

_KEY_BYTES: Final = 32
_FLAGS: Final = 257
_PROTOCOL: Final = 3
_ALGORITHM: Final = 13
_KEYS_MAX: Final = 4


def fresh() -> resource_pb2.ZoneKey:
    """A new key that signs: ECDSA P-256 (RFC 6605)."""
    numbers = ec.generate_private_key(ec.SECP256R1()).private_numbers()
    return resource_pb2.ZoneKey(private_key=numbers.private_value.to_bytes(_KEY_BYTES, "big"), active=True)


def seal(vault: Vault, keys: resource_pb2.ZoneKeys) -> BytesValue:
    """What the store keeps of a zone's keys."""
    return BytesValue(value=vault.seal(keys.SerializeToString(deterministic=True), f"zoneKeys/{keys.origin}"))


def unseal(vault: Vault, origin: str, sealed: BytesValue) -> resource_pb2.ZoneKeys:
    """A zone's keys. Raises FAILED_PRECONDITION when they do not open."""
    return resource_pb2.ZoneKeys.FromString(vault.open(sealed.value, f"zoneKeys/{origin}"))


def ds(origin: str, key: resource_pb2.ZoneKey) -> str:
    """The DS record of a key as a zone file has it (RFC 4034, section 5.3)."""
    return str(dns.dnssec.make_ds(dns.name.from_text(origin), _dnskey(key), "SHA256").to_text())


def added(keys: resource_pb2.ZoneKeys) -> resource_pb2.ZoneKeys:
    """The keys and a new one."""
    if len(keys.keys) >= _KEYS_MAX:
        message = f"zones/{keys.origin} has {_KEYS_MAX} keys: retire one first (`locci zones retire-key`)"
        raise failed_precondition("TOO_MANY_KEYS", message)
    return resource_pb2.ZoneKeys(origin=keys.origin, keys=[*keys.keys, fresh()])


def retired(keys: resource_pb2.ZoneKeys, tag: int) -> resource_pb2.ZoneKeys:
    """The keys but the one with this tag."""
    left = [key for key in keys.keys if int(dns.dnssec.key_id(_dnskey(key))) != tag]
    if len(left) == len(keys.keys):
        tags = ", ".join(str(dns.dnssec.key_id(_dnskey(key))) for key in keys.keys)
        raise invalid("key_tag", f"key_tag: zones/{keys.origin} has no key {tag}, only {tags}")
    if not left:
        message = f"{tag} is the last key of zones/{keys.origin}: add another first (`locci zones add-key`)"
        raise failed_precondition("LAST_KEY", message)
    return resource_pb2.ZoneKeys(origin=keys.origin, keys=left)


def _dnskey(key: resource_pb2.ZoneKey) -> Any:
    numbers = (
        ec.derive_private_key(int.from_bytes(key.private_key, "big"), ec.SECP256R1()).public_key().public_numbers()
    )
    public = numbers.x.to_bytes(_KEY_BYTES, "big") + numbers.y.to_bytes(_KEY_BYTES, "big")
    text = f"{_FLAGS} {_PROTOCOL} {_ALGORITHM} {base64.b64encode(public).decode()}"
    return dns.rdata.from_text("IN", "DNSKEY", text)
