"""Floods of frames that cost little to send, and frames in any order: the connection stays bounded and never fails."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.edge.core.flood import BURST
from agent.edge.core.http2_frames import ErrorCode
from tests.unit.agent.edge.core.http2_peer import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    POST,
    RST_STREAM,
    SETTINGS,
    WINDOW,
    WINDOW_UPDATE,
    Peer,
    block,
    data,
    frame,
    headers,
    ping,
    rst_stream,
    settings,
    window_update,
)
from tests.unit.agent.edge.core.test_http2_connection import priority

PROTOCOL, FLOW, CLOSED, SIZE, REFUSED, COMPRESSION, CALM = (
    ErrorCode.PROTOCOL_ERROR,
    ErrorCode.FLOW_CONTROL_ERROR,
    ErrorCode.STREAM_CLOSED,
    ErrorCode.FRAME_SIZE_ERROR,
    ErrorCode.REFUSED_STREAM,
    ErrorCode.COMPRESSION_ERROR,
    ErrorCode.ENHANCE_YOUR_CALM,
)
OPEN = headers(1, POST, END_HEADERS)
BEGUN = frame(HEADERS, END_STREAM, 1, block(GET)[:20])
REST = block(GET)[20:]
ON_ITSELF = struct.pack(">IB", 1, 7)


FLOODS = {
    "rapid reset": lambda number: headers(number) + rst_stream(number),
    "PING": lambda _: ping(),
    "PING that answers": lambda _: ping(flags=ACK),
    "SETTINGS": lambda _: settings((WINDOW, 65535)),
    "SETTINGS that acknowledge": lambda _: frame(SETTINGS, ACK, 0),
    "PRIORITY": priority,
    "WINDOW_UPDATE": lambda _: window_update(0, 1),
    "empty DATA": lambda number: (headers(1, POST, END_HEADERS) if number == 1 else b"") + data(1, b"", 0),
    "padded DATA": lambda number: (headers(1, POST, 4) if number == 1 else b"") + data(1, b"\0", PADDED),
    "CONTINUATION": lambda number: (BEGUN if number == 1 else b"") + frame(CONTINUATION, 0, 1),
    "unknown frames": lambda _: frame(0xEE, 0, 0),
    "GOAWAY": lambda _: frame(GOAWAY, 0, 0, b"\0" * 8),
    "faults that the server resets": lambda number: headers(number, POST, END_HEADERS) + window_update(number, 0),
    "streams beyond the number": headers,
    "DATA of a stream that was reset": lambda number: (
        (headers(1, POST, 4) + rst_stream(1) if number == 1 else b"") + data(1)
    ),
}


@pytest.mark.parametrize("what", FLOODS)
def test_floods(what: str) -> None:
    peer = Peer(answers=False).greet()
    for step in range(4 * int(BURST)):
        found = peer.send(FLOODS[what](2 * step + 1))
        if peer.connection.over:
            break
    assert found[-1][3][4:8] == struct.pack(">I", CALM)


def test_a_client_with_small_windows_is_no_flood() -> None:
    peer = Peer(answers=False, content=b"x" * 2000).greet()
    for step in range(2000):
        number = 2 * step + 1
        peer.send(headers(number))
        peer.answer(number)
        peer.sent()
        peer.send(window_update(0, 2000))
    assert not peer.connection.over


def test_how_long_a_request_has_been_unfinished() -> None:
    peer = Peer(answers=False).greet()
    peer.send(headers(1)[:-1])
    assert peer.connection.unfinished_s(peer.now + 5) == 5
    peer.send(headers(1)[-1:])
    assert peer.connection.unfinished_s(peer.now + 5) == 0
    peer.send(frame(HEADERS, END_STREAM, 3, block(GET)))
    peer.now += 7
    peer.send(frame(CONTINUATION, 0, 3))
    assert peer.connection.unfinished_s(peer.now + 5) == 12, "a piece of a block does not begin it anew"
    peer.send(frame(CONTINUATION, END_HEADERS, 3), headers(5, POST, END_HEADERS), data(5, b"x" * 100)[:50])
    assert peer.connection.unfinished_s(peer.now + 5) == 0, "bodies have other limits"
    assert (peer.connection.coming(5), peer.connection.coming(3)) == (41, 0)


@given(
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=40)), max_size=30)
)
def test_any_frames_in_any_order(sent: list[tuple[int, int, int, bytes]]) -> None:
    peer = Peer(content=b"hello").greet()
    for kind, flags, number, payload in sent:
        content = payload or block(GET)
        for found, _, stream, said in peer.send(frame(kind, flags, number, content)):
            assert found in (DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE)
            assert found != GOAWAY or peer.connection.over
            assert stream == 0 or stream <= max(peer.connection.newest, 9)
            assert found != GOAWAY or len(said) >= 8


@given(st.binary(max_size=300))
def test_any_octets(octets: bytes) -> None:
    peer = Peer().greet()
    peer.send(octets)
    peer.send(ping())
