from __future__ import annotations

import contextlib
import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.edge.core.proxy_header import SIGNATURE, Source, belonging, parse


def binary(family: int, addresses: bytes, command: int = 0x21, extra: bytes = b"") -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(addresses) + len(extra)) + addresses + extra


V4 = ipaddress.ip_address("192.0.2.1").packed + ipaddress.ip_address("10.0.0.1").packed + b"\0\1\0\2"
V6 = ipaddress.ip_address("2001:db8::1").packed * 2 + b"\0\1\0\2"
MAPPED = ipaddress.ip_address("::ffff:192.0.2.1").packed * 2 + b"\0\1\0\2"
GOOD = [
    (b"PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\r\n", b"192.0.2.1"),
    (b"PROXY TCP6 2001:DB8::1 ::1 1 65535\r\n", b"2001:db8::1"),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
    (binary(0x11, V4), b"192.0.2.1"),
    (binary(0x11, V4, extra=b"\x03\0\4abcd"), b"192.0.2.1"),
    (binary(0x21, V6), b"2001:db8::1"),
    (binary(0x21, MAPPED), b"192.0.2.1"),
    (binary(0x00, b"", command=0x20), None),
    (binary(0x00, b""), None),
]
BAD = [
    b"GET / HTTP/1.1\r\n",
    b"PROXY TCP4 192.0.2.1 10.0.0.1 56324\r\n",
    b"PROXY TCP4 192.0.2.1 10.0.0.1 56324 65536\r\n",
    b"PROXY TCP4 192.0.2.1 10.0.0.1 -1 443\r\n",
    b"PROXY TCP4 ::1 ::1 1 2\r\n",
    b"PROXY TCP4 192.0.2.1  10.0.0.1 1 2\r\n",
    b"PROXY TCP4 evil 10.0.0.1 1 2\r\n",
    b"PROXY TCP5 192.0.2.1 10.0.0.1 1 2\r\n",
    b"PROXY " + b"a" * 200 + b"\r\n",
    b"PROXY " + b"a" * 200,
    binary(0x11, V4, command=0x31),
    binary(0x11, V4, command=0x22),
    binary(0x12, V4),
    binary(0x31, V4 * 20),
    binary(0x11, V4[:11]),
    binary(0x11, V4, extra=b"x" * 4000),
]


def fed(data: bytes, step: int) -> tuple[Source, bytes]:
    """The header, and what is left behind it, when the bytes come in steps."""
    have, rest = b"", data
    while (found := parse(have)) is None:
        if not rest:
            raise ValueError("more was wanted")
        take = belonging(have, rest[:step])
        assert 0 < take <= step
        have, rest = have + rest[:take], rest[take:]
    return found, rest


@pytest.mark.parametrize(("data", "address"), GOOD)
@pytest.mark.parametrize("step", [1, 3, 4096])
def test_headers_are_read_to_their_end_and_no_further(data: bytes, address: bytes | None, step: int) -> None:
    assert fed(data + b"GET / \r\n", step) == (Source(address), b"GET / \r\n")


@pytest.mark.parametrize("data", BAD)
@pytest.mark.parametrize("step", [1, 4096])
def test_what_is_no_header_is_refused(data: bytes, step: int) -> None:
    with pytest.raises(ValueError, match=r"header|more|address|permitted|codec"):
        fed(data, step)


@given(st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11"]), st.binary(max_size=300))
def test_anything_is_a_header_or_is_refused(start: bytes, rest: bytes) -> None:
    with contextlib.suppress(ValueError):
        found, _ = fed(start + rest, 16)
        assert found.address is None or ipaddress.ip_address(found.address.decode())
