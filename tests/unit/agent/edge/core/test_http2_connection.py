"""RFC 9113 rule by rule, with raw frames: what is a fault of a stream, what of the connection, and what is none.

The cases follow the sections that conformance suites for HTTP/2 go through.
"""

from __future__ import annotations

import struct

import pytest

from agent.edge.core import hpack_literals
from agent.edge.core.hpack_decoding import Block
from agent.edge.core.http2_frames import PREFACE, ErrorCode
from agent.edge.core.http2_streams import (
    ANSWER_BYTES_MAX,
    CONNECTION_WINDOW_BYTES,
    STREAM_WINDOW_BYTES,
    STREAMS_MAX,
)
from tests.unit.agent.edge.core.http2_peer import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_SIZE,
    GET,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    POST,
    PRIORITY,
    PUSH,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    TABLE_SIZE,
    WHOLE,
    WINDOW,
    WINDOW_UPDATE,
    WITH_PRIORITY,
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


def priority(number: int, on: int = 0) -> bytes:
    return frame(PRIORITY, 0, number, struct.pack(">IB", on, 7))


# What ends the connection, and with which code.
CONNECTION_FAULTS: dict[str, tuple[bytes, ErrorCode]] = {
    "4.2 HEADERS that are too large": (frame(HEADERS, WHOLE, 1, b"\0" * 16385), SIZE),
    "4.2 DATA that are too large": (OPEN + data(1, b"\0" * 16385), SIZE),
    "4.2 the head of a frame that is too large": (frame(DATA, 0, 1, b"\0" * 16385)[:9], SIZE),
    "4.3 a block that is none": (frame(HEADERS, WHOLE, 1, b"\x80"), COMPRESSION),
    "4.3 PRIORITY in a block": (BEGUN + priority(1), PROTOCOL),
    "4.3 HEADERS of another stream in a block": (BEGUN + headers(3), PROTOCOL),
    "4.3 DATA in a block": (BEGUN + data(1), PROTOCOL),
    "5.1 idle: DATA": (data(1), PROTOCOL),
    "5.1 idle: RST_STREAM": (rst_stream(1), PROTOCOL),
    "5.1 idle: WINDOW_UPDATE": (window_update(1, 100), PROTOCOL),
    "5.1 idle: CONTINUATION": (frame(CONTINUATION, END_HEADERS, 1, REST), PROTOCOL),
    "5.1 closed: DATA": (headers(1) + data(1), CLOSED),
    "5.1 closed: HEADERS": (headers(1) + headers(1), CLOSED),
    "5.1 closed: CONTINUATION": (headers(1) + frame(CONTINUATION, END_HEADERS, 1, REST), PROTOCOL),
    "5.1 after RST_STREAM: CONTINUATION": (OPEN + rst_stream(1) + frame(CONTINUATION, 4, 1, REST), PROTOCOL),
    "5.1.1 an even number": (headers(2), PROTOCOL),
    "5.1.1 a number below the newest": (headers(5) + headers(3), PROTOCOL),
    "5.3.1 PRIORITY of an idle stream on itself": (priority(1, on=1), PROTOCOL),
    "5.5 an unknown frame in a block": (BEGUN + frame(0xEE, 0, 1, b"x"), PROTOCOL),
    "6.1 DATA of the connection": (data(0), PROTOCOL),
    "6.1 DATA with too much padding": (OPEN + data(1, b"\x04abc", PADDED | END_STREAM), PROTOCOL),
    "6.1 padded DATA that are empty": (OPEN + data(1, b"", PADDED | END_STREAM), PROTOCOL),
    "6.1 DATA of an even stream": (headers(1) + data(2), PROTOCOL),
    "6.2 HEADERS of the connection": (headers(0), PROTOCOL),
    "6.2 HEADERS with too much padding": (frame(HEADERS, WHOLE | PADDED, 1, b"\xff" + block(GET)), PROTOCOL),
    "6.2 HEADERS too short for a priority": (frame(HEADERS, WHOLE | WITH_PRIORITY, 1, b"\0\0"), SIZE),
    "6.3 PRIORITY of the connection": (priority(0), PROTOCOL),
    "6.3 PRIORITY of an idle stream of another length": (frame(PRIORITY, 0, 1, b"\0" * 4), SIZE),
    "6.4 RST_STREAM of the connection": (rst_stream(0), PROTOCOL),
    "6.4 RST_STREAM of another length": (OPEN + frame(RST_STREAM, 0, 1, b"\0" * 3), SIZE),
    "6.5 SETTINGS that acknowledge something": (frame(SETTINGS, ACK, 0, b"\0" * 6), SIZE),
    "6.5 SETTINGS of a stream": (frame(SETTINGS, 0, 1, b"\0" * 6), PROTOCOL),
    "6.5 SETTINGS of another length": (frame(SETTINGS, 0, 0, b"\0" * 5), SIZE),
    "6.5.2 ENABLE_PUSH of 2": (settings((PUSH, 2)), PROTOCOL),
    "6.5.2 INITIAL_WINDOW_SIZE too large": (settings((WINDOW, 2**31)), FLOW),
    "6.5.2 MAX_FRAME_SIZE too small": (settings((FRAME_SIZE, 16383)), PROTOCOL),
    "6.5.2 MAX_FRAME_SIZE too large": (settings((FRAME_SIZE, 2**24)), PROTOCOL),
    "6.6 PUSH_PROMISE": (OPEN + frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + block(GET)), PROTOCOL),
    "6.7 PING of a stream": (frame(PING, 0, 1, b"12345678"), PROTOCOL),
    "6.7 PING of another length": (ping(b"1234567"), SIZE),
    "6.8 GOAWAY of a stream": (frame(GOAWAY, 0, 1, b"\0" * 8), PROTOCOL),
    "6.8 GOAWAY too short": (frame(GOAWAY, 0, 0, b"\0" * 7), SIZE),
    "6.9 WINDOW_UPDATE of 0": (window_update(0, 0), PROTOCOL),
    "6.9 WINDOW_UPDATE of another length": (frame(WINDOW_UPDATE, 0, 0, b"\0\0\1"), SIZE),
    "6.9.1 the connection's window too large": (window_update(0, 2**31 - 1) * 2, FLOW),
    "6.9.2 a window too large by SETTINGS": (OPEN + window_update(1, 2**31 - 65536) + settings((WINDOW, 65536)), FLOW),
    "6.10 CONTINUATION of the connection": (BEGUN + frame(CONTINUATION, END_HEADERS, 0, REST), PROTOCOL),
    "6.10 CONTINUATION of whole HEADERS": (OPEN + frame(CONTINUATION, END_HEADERS, 1, REST), PROTOCOL),
    "6.10 CONTINUATION behind the last": (
        headers(1, POST, 0)[:-1] + b"t" + frame(CONTINUATION, 4, 1, b"") + frame(CONTINUATION, 4, 1, b""),
        PROTOCOL,
    ),
    "6.10 CONTINUATION behind DATA": (OPEN + data(1) + frame(CONTINUATION, END_HEADERS, 1, REST), PROTOCOL),
    "HPACK 2.3.3 an index beyond the tables": (frame(HEADERS, WHOLE, 1, block(GET) + b"\xfe"), COMPRESSION),
    "HPACK 4.2 a size behind the fields": (frame(HEADERS, WHOLE, 1, block(GET) + b"\x20"), COMPRESSION),
    "HPACK 5.2 padding of eight bits": (
        headers(1, after=b"\0\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"),
        COMPRESSION,
    ),
    "HPACK 5.2 padding of zeros": (headers(1, after=b"\0\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"), COMPRESSION),
    "HPACK 5.2 an end of the string": (
        headers(1, after=b"\0\x85\xf2\xb2\x4a\x84\xff\x87\xff\xff\xff\xfd\xf8\xff\xff"),
        COMPRESSION,
    ),
    "HPACK 6.1 index 0": (frame(HEADERS, WHOLE, 1, block(GET) + b"\x80"), COMPRESSION),
    "HPACK 6.3 a table too large": (frame(HEADERS, WHOLE, 1, b"\x3f\xe2\x1f" + block(GET)), COMPRESSION),
}


@pytest.mark.parametrize("what", CONNECTION_FAULTS)
def test_faults_of_the_connection(what: str) -> None:
    octets, code = CONNECTION_FAULTS[what]
    peer = Peer().greet()
    kind, _, number, payload = peer.send(octets)[-1]
    assert (kind, number, ErrorCode(int.from_bytes(payload[4:8], "big"))) == (GOAWAY, 0, code)
    assert payload[8:], "a reason for people"
    assert peer.connection.over
    assert peer.send(ping()) == []


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n\r\n", PREFACE[:-1] + b"x", PREFACE + ping(), PREFACE + OPEN])
def test_a_preface_that_is_none(start: bytes) -> None:
    peer = Peer()
    assert peer.send(start)[-1][0] == GOAWAY
    assert peer.connection.over


# What ends a stream, and with which code. The connection goes on.
STREAM_FAULTS: dict[str, tuple[bytes, ErrorCode]] = {
    "5.1 half-closed: DATA": (headers(1) + data(1), CLOSED),
    "5.1 half-closed: HEADERS": (headers(1) + headers(1), CLOSED),
    "5.1 after RST_STREAM: DATA": (OPEN + rst_stream(1) + data(1), CLOSED),
    "5.1 after RST_STREAM: HEADERS": (OPEN + rst_stream(1) + headers(1), CLOSED),
    "5.3.1 HEADERS on itself": (headers(1, flags=WHOLE | WITH_PRIORITY, before=ON_ITSELF), PROTOCOL),
    "5.3.1 PRIORITY on itself": (OPEN + priority(1, on=1), PROTOCOL),
    "6.3 PRIORITY of another length": (OPEN + frame(PRIORITY, 0, 1, b"\0" * 4), SIZE),
    "6.9 WINDOW_UPDATE of 0": (OPEN + window_update(1, 0), PROTOCOL),
    "6.9.1 a window too large": (OPEN + window_update(1, 2**31 - 1) * 2, FLOW),
    "6.9.1 more DATA than the window": (OPEN + data(1, b"x" * 16384, 0) * 4 + data(1, b"x", 0), FLOW),
    "8.1 HEADERS that do not end": (OPEN + headers(1, [(b"x", b"y")], END_HEADERS), PROTOCOL),
    "8.1 trailers with a pseudo field": (OPEN + data(1, b"x", 0) + headers(1, [(b":path", b"/")]), PROTOCOL),
    "8.1 trailers in capitals": (OPEN + headers(1, [(b"X", b"y")]), PROTOCOL),
    "8.1 trailers of the connection": (OPEN + headers(1, [(b"connection", b"close")]), PROTOCOL),
    "8.1.1 a body too short": (headers(1, [*POST, (b"content-length", b"2")], 4) + data(1, b"x"), PROTOCOL),
    "8.1.1 a body too long": (headers(1, [*POST, (b"content-length", b"2")], 4) + data(1, b"xyz", 0), PROTOCOL),
    "8.1.1 a body in pieces too short": (
        headers(1, [*POST, (b"content-length", b"3")], 4) + data(1, b"x", 0) + data(1, b"y"),
        PROTOCOL,
    ),
    "8.1.1 a body too short before trailers": (
        headers(1, [*POST, (b"content-length", b"2")], 4) + data(1, b"x", 0) + headers(1, [(b"x", b"y")]),
        PROTOCOL,
    ),
}


@pytest.mark.parametrize("what", STREAM_FAULTS)
def test_faults_of_a_stream(what: str) -> None:
    octets, code = STREAM_FAULTS[what]
    peer = Peer(answers=False).greet()
    if "more DATA than the window" in what:
        peer.body = lambda number, content, cost: None  # type: ignore[method-assign]  # nobody reads
    kind, _, number, payload = peer.send(octets)[-1]
    assert (kind, number, ErrorCode(int.from_bytes(payload, "big"))) == (RST_STREAM, 1, code)
    assert not peer.connection.over
    assert peer.gone == ({1} if 1 in peer.asked else set())
    peer.answers = True
    assert (HEADERS, WHOLE, 3) in [found[:3] for found in peer.send(headers(3))]


FINE: dict[str, bytes] = {
    "2 PRIORITY of an idle stream": priority(1),
    "2 PRIORITY of a closed stream": headers(1) + priority(1),
    "2 WINDOW_UPDATE of a closed stream": headers(1) + window_update(1, 100),
    "2 RST_STREAM of a closed stream": headers(1) + rst_stream(1),
    "4.1 an unknown frame": frame(0xFF, 0, 0, b"x" * 8),
    "4.1 an unknown flag": ping(flags=0xFE),
    "4.1 a reserved bit": frame(PING, 0, 2**31, b"12345678"),
    "4.2 a full frame": OPEN + data(1, b"x" * 16384),
    "5.1.1 a gap": headers(7),
    "5.5 an unknown setting": settings((0xFF, 1)),
    "6.1 padding": OPEN + data(1, b"\x03x\0\0\0", PADDED | END_STREAM),
    "6.1 nothing but padding": OPEN + data(1, b"\x03\0\0\0", PADDED | END_STREAM),
    "6.2 padding": headers(1, flags=WHOLE | PADDED, before=b"\x03", after=b"\0\0\0"),
    "6.2 priority": headers(1, flags=WHOLE | WITH_PRIORITY, before=b"\0\0\0\0\xff"),
    "6.2 padding and priority": headers(1, flags=0x2D, before=b"\x03\x80\0\0\0\xff", after=b"\0\0\0"),
    "6.5.3 several sizes of a window": settings((WINDOW, 100), (WINDOW, 1)),
    "6.7 PING that answers nothing": ping(flags=ACK),
    "6.10 several CONTINUATION": BEGUN + frame(CONTINUATION, 0, 1, REST[:5]) + frame(CONTINUATION, 4, 1, REST[5:]),
    "7 GOAWAY with an unknown code": frame(GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\xff"),
    "7 RST_STREAM with an unknown code": OPEN + rst_stream(1, 0xFF),
    "8.1 trailers": OPEN + data(1, b"x", 0) + headers(1, [(b"x-checksum", b"1")]),
    "HPACK 6.3 two sizes": frame(HEADERS, WHOLE, 1, b"\x20\x3f\xe1\x1f" + block(GET)),
}


@pytest.mark.parametrize("what", FINE)
def test_no_faults(what: str) -> None:
    peer = Peer().greet()
    assert not [found for found in peer.send(FINE[what]) if found[0] in (RST_STREAM, GOAWAY)]
    if 1 in peer.asked and not peer.gone:
        assert 1 in peer.ended
    assert (PING, ACK, 0, b"abcdefgh") in peer.send(ping(b"abcdefgh"))
    assert not peer.connection.over


@pytest.mark.parametrize("cut", [1, 2, 7, 100])
def test_octets_come_in_any_pieces(cut: int) -> None:
    peer = Peer()
    octets = (
        PREFACE
        + settings()
        + OPEN
        + data(1, b"abc", 0)
        + data(1, b"def")
        + FINE["6.10 several CONTINUATION"].replace(b"\0\0\0\1", b"\0\0\0\3")
    )
    for at in range(0, len(octets), cut):
        peer.send(octets[at : at + cut])
    assert peer.bodies == {1: b"abcdef"}
    assert (peer.asked[3], peer.ended) == (GET, {1, 3})


def test_what_the_server_says_first() -> None:
    (kind, flags, number, payload), update = Peer().hello
    assert (kind, flags, number) == (SETTINGS, 0, 0)
    said = dict(struct.iter_unpack(">HI", payload))
    assert said == {3: STREAMS_MAX, 4: STREAM_WINDOW_BYTES, 6: 32768, 9: 1}
    assert update == (WINDOW_UPDATE, 0, 0, struct.pack(">I", CONNECTION_WINDOW_BYTES - 65535))


def test_settings_and_pings_are_acknowledged() -> None:
    peer = Peer().greet()
    assert peer.send(settings((WINDOW, 1)), ping()) == [(SETTINGS, ACK, 0, b""), (PING, ACK, 0, b"12345678")]


def test_the_streams_have_a_number() -> None:  # section 5.1.2
    peer = Peer(answers=False).greet()
    peer.send(*(headers(number) for number in range(1, 2 * STREAMS_MAX, 2)))
    number = 2 * STREAMS_MAX + 1
    assert peer.send(headers(number)) == [(RST_STREAM, 0, number, struct.pack(">I", REFUSED))]
    peer.answer(1)
    peer.send(headers(number + 2))
    assert number + 2 in peer.asked
    assert number not in peer.asked


def test_windows_hold_back_and_let_go() -> None:  # section 6.9.1
    peer = Peer(answers=False, content=b"abcdef").greet((WINDOW, 1))
    peer.send(headers(1))
    peer.answer(1)
    assert [found[:1] + found[3:] for found in peer.sent()[1:]] == [(DATA, b"a")]
    assert peer.connection.window_of(1) == 0
    peer.send(window_update(1, 2))
    assert peer.connection.window_of(1) == 2


def test_a_window_may_become_negative() -> None:  # section 6.9.2
    peer = Peer(answers=False, content=b"abcdef").greet((WINDOW, 3))
    peer.send(headers(1))
    peer.answer(1)
    peer.send(settings((WINDOW, 1)))
    assert peer.connection.window_of(1) == -2
    peer.send(window_update(1, 2))
    assert peer.connection.window_of(1) == 0
    peer.send(settings((WINDOW, 2)))
    assert peer.connection.window_of(1) == 1


def test_the_connections_window_counts_for_all() -> None:
    peer = Peer(answers=False, content=b"x" * 16384).greet((WINDOW, 2**20))
    for number in (1, 3, 5, 7, 9):
        peer.send(headers(number))
    for number in (1, 3, 5, 7):
        peer.answer(number)
    assert peer.connection.window_of(9) == 0, "65535 octets were sent"
    peer.send(window_update(0, 5))
    assert peer.connection.window_of(9) == 5


def test_a_client_gets_back_what_was_read() -> None:
    peer = Peer(answers=False).greet()
    peer.send(OPEN)
    back = [peer.send(data(1, b"x" * 16384, 0)) for _ in range(20)]
    assert sum(int.from_bytes(found[3], "big") for answer in back for found in answer if found[2] == 1) == 20 * 16384
    for number in range(3, 103, 2):
        peer.send(headers(number, POST, END_HEADERS), data(number, b"x" * 16384, 0) * 3, rst_stream(number))
    assert not peer.connection.over, "what was read of streams that have gone is given back too"


def test_more_than_the_connections_window() -> None:  # section 6.9.1
    peer = Peer(answers=False).greet()
    peer.body = lambda number, content, cost: None  # type: ignore[method-assign]  # nobody reads
    for number in range(1, 2 * STREAMS_MAX, 2):
        peer.send(headers(number, POST, END_HEADERS), data(number, b"x" * 16384, 0) * 4)
    number = 2 * STREAMS_MAX + 1
    peer.send(rst_stream(1), headers(number, POST, END_HEADERS))
    assert peer.send(data(number))[-1][3][4:8] == struct.pack(">I", FLOW)


NO_ERROR = (RST_STREAM, 0, 1, b"\0\0\0\0")


def answered(*more: tuple[bytes, bytes]) -> Peer:
    """A request was answered before its end."""
    peer = Peer(answers=False).greet()
    peer.send(headers(1, [*POST, *more], END_HEADERS))
    peer.answer(1)
    assert [found[:3] for found in peer.sent()] == [(HEADERS, WHOLE, 1)]
    return peer


def test_a_request_answered_before_its_end_need_not_end() -> None:  # section 8.1
    peer = answered()
    assert peer.send(data(1, b"x", 0)) == []
    peer.connection.expire(peer.now + 0.1)
    assert peer.sent() == []
    peer.connection.expire(peer.now + 1)
    assert peer.sent() == [NO_ERROR]
    assert peer.send(data(1, b"x", 0), headers(1, [(b"x", b"y")])) == [], "what was on its way is dropped"
    assert (peer.bodies, peer.ended) == ({}, set())


@pytest.mark.parametrize("end", [data(1), headers(1, [(b"x", b"y")])])
def test_a_request_answered_before_its_end_may_end(end: bytes) -> None:
    peer = answered()
    assert peer.send(data(1, b"x", 0), end) == []
    peer.connection.expire(peer.now + 1)
    assert peer.sent() == []
    assert peer.send(data(1))[-1][3][4:8] == struct.pack(">I", CLOSED)


def test_a_request_answered_before_its_end_must_be_one() -> None:
    for end in (data(1, b"xyz"), data(1, b"xyz", 0), data(1, b"x")):
        peer = answered((b"content-length", b"2"))
        assert peer.send(end) == [(RST_STREAM, 0, 1, struct.pack(">I", PROTOCOL))]
    assert answered().send(rst_stream(1), headers(1)) == [(RST_STREAM, 0, 1, struct.pack(">I", CLOSED))]


def test_a_request_answered_before_its_end_takes_no_room() -> None:
    peer = answered()
    found = [peer.send(data(1, b"x" * 16384, 0)) for _ in range(4)]
    assert found == [[], [], [], [NO_ERROR]], "its window does not open again"
    peer = answered()
    peer.send(*(headers(number) for number in range(3, 2 * STREAMS_MAX, 2)))
    assert peer.send(headers(2 * STREAMS_MAX + 1)) == [NO_ERROR]
    assert 2 * STREAMS_MAX + 1 in peer.asked


def test_a_client_that_leaves_is_still_answered() -> None:  # section 6.8
    peer = Peer(answers=False).greet()
    peer.send(headers(1), frame(GOAWAY, 0, 0, b"\0" * 8))
    assert peer.left
    assert peer.send(headers(3))[-1] == (RST_STREAM, 0, 3, struct.pack(">I", REFUSED))
    peer.answer(1)
    assert peer.sent()[-1][:3] == (HEADERS, WHOLE, 1)


def test_a_server_that_leaves_says_what_it_has_taken() -> None:
    peer = Peer(answers=False).greet()
    peer.send(headers(1))
    peer.connection.leave_soon()
    assert peer.sent() == [(GOAWAY, 0, 0, struct.pack(">II", 2**31 - 1, 0))]
    peer.send(headers(3))
    assert 3 in peer.asked, "it was on its way"
    peer.connection.go_away()
    assert peer.sent() == [(GOAWAY, 0, 0, struct.pack(">II", 3, 0))]
    assert peer.send(headers(5))[-1] == (RST_STREAM, 0, 5, struct.pack(">I", REFUSED))


def test_large_heads() -> None:
    peer = Peer(header_bytes_max=1024, answers=False).greet()
    peer.send(headers(1, [*GET, (b"x", b"y" * 1100)]))
    assert peer.asked[1] == [], "read, not kept"
    peer.send(headers(3))
    assert peer.asked[3] == GET
    parts = [frame(HEADERS, END_STREAM, 5, block(GET)), *[frame(CONTINUATION, 0, 5, b"\0\1a\1b" * 100)] * 3]
    assert peer.send(*parts)[-1][3][4:8] == struct.pack(">I", CALM)


def test_a_large_answer_goes_in_several_frames() -> None:
    peer = Peer(answers=False).greet((TABLE_SIZE, 0))
    peer.send(headers(1))
    fields = [(b":status", b"200"), *((b"x-%d" % number, b"y" * 4000) for number in range(10))]
    peer.connection.send_fields(1, fields, end=True)
    found = peer.sent()
    assert [(kind, flags) for kind, flags, *_ in found] == [(HEADERS, END_STREAM), (CONTINUATION, 0), (CONTINUATION, 4)]
    pairs = peer.decoder.decode(b"".join(payload for *_, payload in found), raw=True)
    assert [tuple(pair) for pair in pairs] == fields


@pytest.mark.parametrize("size", [0, 1, 16384, 16385, 65536, ANSWER_BYTES_MAX])
def test_answers_at_once(size: int) -> None:
    class Quick(Peer):
        def quick(self, number: int, found: Block) -> bool:
            return self.connection.answer(number, fields, b"\x02", b"id", body)

    fields, body = hpack_literals.block([(b":status", b"200")]) + hpack_literals.begun(b"x"), bytes(range(256)) * 512
    body = body[:size]
    peer = Quick(answers=False).greet((WINDOW, 2**20))
    peer.send(window_update(0, 2**20), headers(1))
    peer.answer(1)  # the first says that no table is used
    peer.sent()
    before = peer.connection.window
    for number in (3, 5, 9):
        (kind, flags, stream, payload), *rest = peer.send(headers(number))
        assert (kind, stream) == (HEADERS, number)
        assert [tuple(pair) for pair in peer.decoder.decode(payload, raw=True)] == [(b":status", b"200"), (b"x", b"id")]
        ends = [flags & END_STREAM, *(found[1] & END_STREAM for found in rest)]
        assert ends == [0] * len(rest) + [1]
        assert b"".join(found[3] for found in rest) == body
    assert before - peer.connection.window == 3 * size
    assert list(peer.asked) == [1]
    assert peer.send(headers(9))[-1][0] == GOAWAY, "streams answered at once are closed"


@pytest.mark.parametrize("greeting", [(WINDOW, 99), (WINDOW, 2**20)])
def test_no_answer_at_once_that_does_not_fit(greeting: tuple[int, int]) -> None:
    peer = Peer(answers=False).greet(greeting)
    peer.send(headers(1))
    peer.answer(1)
    peer.connection.window = 100 if greeting[1] == 99 else 99
    assert not peer.connection.answer(3, b"\x88", b"", b"", b"x" * 100)
    assert not peer.connection.answer(3, b"\x88" * 16385, b"", b"", b"")
    peer.connection.window = peer.connection._stream_window = 2**30
    assert not peer.connection.answer(3, b"\x88", b"", b"", b"x" * (ANSWER_BYTES_MAX + 1))
    assert len(peer.sent()) == 1
