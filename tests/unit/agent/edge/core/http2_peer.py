"""The client's side of an HTTP/2 connection in tests: raw frames, one by one, and what comes back, taken apart."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import hpack

from agent.edge.core.hpack_decoding import Block
from agent.edge.core.http2_connection import Connection
from agent.edge.core.http2_frames import PREFACE, Setting

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
WHOLE = END_STREAM | END_HEADERS
GET = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", b"hello.test")]
POST = [(b":method", b"POST"), *GET[1:]]


def frame(kind: int, flags: int, number: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", number) + payload


def block(fields: list[tuple[bytes, bytes]]) -> bytes:
    """Without a table, as a client may send it."""
    return b"".join(
        b"\0%c%b\x7f%b%b" % (len(n), n, _more(len(v)), v) if len(v) > 126 else _short(n, v) for n, v in fields
    )


def _short(name: bytes, value: bytes) -> bytes:
    return b"\0%c%b%c%b" % (len(name), name, len(value), value)


def _more(size: int) -> bytes:
    size -= 127
    made = b""
    while size >= 128:
        made += bytes((size & 127 | 128,))
        size >>= 7
    return made + bytes((size,))


def headers(
    number: int, fields: list[tuple[bytes, bytes]] = GET, flags: int = WHOLE, before: bytes = b"", after: bytes = b""
) -> bytes:
    return frame(HEADERS, flags, number, before + block(fields) + after)


def data(number: int, content: bytes = b"x", flags: int = END_STREAM) -> bytes:
    return frame(DATA, flags, number, content)


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def window_update(number: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, number, struct.pack(">I", size))


def rst_stream(number: int, code: int = 8) -> bytes:
    return frame(RST_STREAM, 0, number, struct.pack(">I", code))


def ping(content: bytes = b"12345678", flags: int = 0) -> bytes:
    return frame(PING, flags, 0, content)


def frames(octets: bytes) -> list[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each; all must be whole."""
    found = []
    while octets:
        size = int.from_bytes(octets[:3], "big")
        assert len(octets) >= 9 + size
        found.append((octets[3], octets[4], int.from_bytes(octets[5:9], "big"), octets[9 : 9 + size]))
        octets = octets[9 + size :]
    return found


@dataclass
class Peer:
    """A connection whose requests are answered with 200 when `answers`, and kept open otherwise."""

    answers: bool = True
    content: bytes = b""
    header_bytes_max: int = 32768
    now: float = 100.0
    asked: dict[int, list[tuple[bytes, bytes]]] = field(default_factory=dict)
    bodies: dict[int, bytes] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    left: bool = False
    priorities: dict[int, bytes] = field(default_factory=dict)
    trailers: dict[int, list[tuple[bytes, bytes]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.connection = Connection(self, self.header_bytes_max)
        self.decoder = hpack.Decoder()
        self.hello = self.sent()

    def greet(self, *pairs: tuple[int, int]) -> Peer:
        """The preface."""
        self.send(PREFACE + settings(*pairs))
        return self

    def send(self, *octets: bytes) -> list[tuple[int, int, int, bytes]]:
        """Sends, and returns the frames that come back at once."""
        self.connection.receive(b"".join(octets), self.now)
        return self.sent()

    def sent(self) -> list[tuple[int, int, int, bytes]]:
        out, self.connection.out[:] = b"".join(self.connection.out), []
        return frames(out)

    def answer(self, number: int) -> None:
        """The whole answer, as far as the windows allow."""
        self.connection.send_fields(number, [(b":status", b"200")], end=not self.content)
        if self.content:
            size = self.connection.window_of(number)
            if size > 0:
                self.connection.send_data(number, self.content[:size], end=size >= len(self.content))

    # ---- core.http2_connection.User

    def quick(self, number: int, found: Block) -> bool:
        return False

    def request(self, number: int, found: Block, ended: bool) -> None:
        self.asked[number] = found.fields
        for name, value in found.fields:
            if name == b"content-length" and value.isdigit():
                self.connection.expect(number, int(value))
        if ended:
            self.whole(number)

    def body(self, number: int, content: bytes, cost: int) -> None:
        self.bodies[number] = self.bodies.get(number, b"") + content
        self.connection.credit(number, cost)

    def whole(self, number: int) -> None:
        self.ended.add(number)
        if self.answers:
            self.answer(number)

    def trailing(self, number: int, fields: list[tuple[bytes, bytes]]) -> None:
        self.trailers[number] = fields

    def broken(self, number: int) -> None:
        self.gone.add(number)

    def prioritised(self, number: int, value: bytes) -> None:
        self.priorities[number] = value

    def leaves(self) -> None:
        self.left = True


TABLE_SIZE, PUSH, STREAMS, WINDOW, FRAME_SIZE, LIST_SIZE, NO_OLD_PRIORITIES = (int(setting) for setting in Setting)
