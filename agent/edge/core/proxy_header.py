"""What a load balancer says of its client in front of a connection: the PROXY protocol, versions 1 and 2.

Source: https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt, sections 2.1 and 2.2.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
V1_BYTES_MAX: Final = 107
V2_BYTES_MAX: Final = 16 + 2048
_V1: Final = b"PROXY "
_V1_VERSIONS: Final = {b"TCP4": 4, b"TCP6": 6}


@dataclass(frozen=True, slots=True)
class Source:
    """A whole header; `address` is None when the load balancer speaks for itself, or does not know."""

    address: bytes | None


def belonging(have: bytes, ahead: bytes) -> int:
    """How many of the bytes ahead belong to the header that begins with what there is. Raises ValueError."""
    seen = have + ahead
    if seen.startswith(SIGNATURE[: len(seen)]):
        whole = 16 if len(seen) < 16 else 16 + int.from_bytes(seen[14:16], "big")
        if whole > V2_BYTES_MAX:
            raise ValueError("the header is too long")
        return min(len(ahead), whole - len(have))
    if not seen.startswith(_V1[: len(seen)]):
        raise ValueError("there is no header")
    end = seen.find(b"\r\n")
    if (len(seen) if end < 0 else end + 2) > V1_BYTES_MAX:
        raise ValueError("the header is too long")
    return len(ahead) if end < 0 else end + 2 - len(have)


def parse(have: bytes) -> Source | None:
    """The header; None when there must be more of it. Raises ValueError for one that is wrong."""
    if have.startswith(_V1):
        return _parse_text(have[:-2]) if have.endswith(b"\r\n") else None
    if len(have) < 16 or len(have) < 16 + int.from_bytes(have[14:16], "big"):
        return None
    return _parse_binary(have)


def _parse_text(line: bytes) -> Source:
    words = line.split(b" ")
    if words[1:2] == [b"UNKNOWN"]:
        return Source(None)
    if len(words) != 6 or words[1] not in _V1_VERSIONS:
        raise ValueError("the header has not the parts that it should have")
    addresses = [ipaddress.ip_address(word.decode("ascii")) for word in words[2:4]]
    if any(address.version != _V1_VERSIONS[words[1]] for address in addresses):
        raise ValueError("the header has an address of another family")
    if not all(word.isdigit() and len(word) <= 5 and int(word) <= 65535 for word in words[4:]):
        raise ValueError("the header has a port that is none")
    return Source(_plain(addresses[0]))


def _parse_binary(have: bytes) -> Source:
    command, family, length = struct.unpack("!BBH", have[12:16])
    if command == 0x20:
        return Source(None)
    if command != 0x21:
        raise ValueError("the header is of a version or command that is not known")
    size = {0x11: 4, 0x21: 16}.get(family)
    if size is None:
        if family == 0x00:
            return Source(None)
        raise ValueError("the header speaks of something other than TCP")
    if length < 2 * size + 4:
        raise ValueError("the header is too short for its addresses")
    return Source(_plain(ipaddress.ip_address(have[16 : 16 + size])))


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address).encode()
