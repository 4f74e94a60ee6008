"""The options of common queries, told by their bytes: a client subnet, a cookie, or both."""

from __future__ import annotations

from typing import Final

_OPT_START: Final = b"\0\0\x29"
SUBNETS: Final = {
    b"\0\x08\0\x07\0\x01\x18\0": 3,
    b"\0\x08\0\x0a\0\x02\x30\0": 6,
    b"\0\x08\0\x0b\0\x02\x38\0": 7,
}
"""How client subnets of an IPv4 /24 and an IPv6 /48 and /56 begin, and how many bytes of address follow."""
_COOKIE_STARTS: Final = (b"\0\x0a\0\x08", b"\0\x0a\0\x18")


def options_of(data: bytes, end: int, kind: int) -> bytes | None:
    """The options of a query of a common kind whose question ends at `end`: OPT is all that follows, version 0 and
    without the CO bit. None when it is not so."""
    if kind < 2:
        return b"" if len(data) == end else None
    opt, option = data[end : end + 11], data[end + 11 :]
    if opt[:3] != _OPT_START or len(opt) != 11 or opt[6] or opt[7] & 0x40 or opt[9] << 8 | opt[10] != len(option):
        return None
    return option


def subnet_and_client(option: bytes) -> tuple[bytes, bytes] | None:
    """The network of a common client subnet, or none, and the client's cookie, or none, when there is nothing else in
    the options."""
    network = client = b""
    while option:
        size = SUBNETS.get(option[:8])
        if size is not None and not network:
            network, option = option[8 : 8 + size], option[8 + size :]
            if len(network) != size:
                return None
        elif option[:4] in _COOKIE_STARTS and not client:
            if len(option) < 4 + option[3]:
                return None
            client, option = option[4:12], option[4 + option[3] :]
        else:
            return None
    return network, client


def address_in(network: bytes) -> bytes:
    """The first address of a network of three bytes of IPv4, or of more of IPv6."""
    return network + b"\0" if len(network) == 3 else network.ljust(16, b"\0")
