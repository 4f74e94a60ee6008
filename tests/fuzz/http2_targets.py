"""Targets of HTTP/2: each takes bytes, and raises when a rule is broken."""

from __future__ import annotations

import contextlib
import re

import hpack

from agent.edge.core import http2_request
from agent.edge.core.headers import Origin, encode_head, to_upstream
from agent.edge.core.hpack_decoding import Decoder, HpackError
from agent.edge.core.request_head import Refused
from tests.unit.agent.edge.core.http2_peer import GET, GOAWAY, Peer, block, data, headers, ping, settings, window_update

ORIGIN = Origin(b"192.0.2.1", b"https", b"hello.test", b"id-12345", False)
SEEDS: dict[str, tuple[bytes, ...]] = {
    "frames": (
        headers(1) + ping() + headers(3, flags=4) + data(3) + settings((4, 1)) + window_update(1, 5),
        headers(1, flags=0)[:-5] + b"\0\0\5\x09\4\0\0\0\1host\0",
    ),
    "blocks": (block(GET), bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff"), b"\x3f\xe1\x1f\x40\x01a\x01b\xbe"),
}


def frames(octets: bytes) -> None:
    """Frames mean the same however they are cut; what is taken for a request goes on as one request."""
    whole, cut = Peer(content=b"hello").greet(), Peer(content=b"hello").greet()
    found = whole.send(octets)
    at = len(octets) // 3
    pieces = cut.send(octets[:at]) + cut.send(octets[at:])
    assert found == pieces, (found, pieces)
    assert not whole.connection.over or found[-1][0] == GOAWAY
    for number, fields in whole.asked.items():
        with contextlib.suppress(Refused):
            head = http2_request.read(fields, b"https", 100, ended=number in whole.ended)
            passed = to_upstream(head.headers, head.fields, ORIGIN, head.minor)
            lines = encode_head(head.method + b" " + head.target + b" HTTP/1.1", passed)
            assert len(re.split(rb"\r\n|\r|\n|\0", lines)) == len(passed) + 3


def blocks(octets: bytes) -> None:
    """Two blocks are read as another decoder reads them, or refused; a second reading says the same."""
    ours, theirs = Decoder(2**30), hpack.Decoder()
    theirs.max_header_list_size = 2**30
    at = len(octets) // 2
    for part in (octets[:at], octets[at:]):
        try:
            fields = ours.decode(part).fields
        except HpackError:
            return
        assert [tuple(pair) for pair in theirs.decode(part, raw=True)] == fields
