"""The streams of an HTTP/2 connection, seen from the server: what is sent on them, their windows, how they end
(RFC 9113, sections 5 and 6.9)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from agent.edge.core import hpack_literals, http2_frames
from agent.edge.core.flood import BURST, FloodGuard
from agent.edge.core.http2_frames import FRAME_BYTES_MAX, HEAD, WINDOW_DEFAULT, ErrorCode, Flag, Kind

STREAMS_MAX: Final = 100
STREAM_WINDOW_BYTES: Final = 64 * 1024
CONNECTION_WINDOW_BYTES: Final = STREAMS_MAX * STREAM_WINDOW_BYTES
"""A stream whose body nobody reads for now takes nothing from the others."""
LINGER_S: Final = 0.5
"""So long a client may go on with a request that has been answered, before it is told that it need not."""
RESETS_REMEMBERED_MAX: Final = 256
USEFUL_BYTES_MIN: Final = 1024
ANSWER_BYTES_MAX: Final = 128 * 1024
"""Larger bodies go frame by frame, in turns with those of other streams."""
# Plain integers, for what runs for each request: a member of an enumeration is slow to come by.
WHOLE: Final = int(Flag.END_STREAM | Flag.END_HEADERS)
_END_STREAM: Final = int(Flag.END_STREAM)
_END_HEADERS: Final = int(Flag.END_HEADERS)
_HEADERS: Final = int(Kind.HEADERS)


@dataclass(slots=True)
class Open:
    """A request that has not been answered to its end."""

    window: int
    """Octets that the client takes; negative when it has shrunk its windows (section 6.9.2)."""
    heard_all: bool
    room: int = STREAM_WINDOW_BYTES
    """Octets that the client may still send."""
    owed: int = 0
    """Octets that were read, and that the client has not been told of."""
    left: int = -1
    """Octets of the body that were announced and have not come; -1 when none were."""


class Streams:
    """What the client is to be sent gathers in `out`. Sizes are octets."""

    def __init__(self) -> None:
        self.guard = FloodGuard()
        self.out: list[bytes | memoryview] = []
        """What the client is to be sent; whoever sends it empties it."""
        self.over = False
        """The connection ends: nothing more is read."""
        self.window = WINDOW_DEFAULT
        """Octets of bodies that the client takes on all streams together."""
        self.newest = -1
        """The newest stream that the client has opened; -1 before the first."""
        self.refuses = False
        """New streams are refused: one of the two has said that it leaves."""
        self._streams: dict[int, Open] = {}
        self._answered: dict[int, float] = {}
        """Streams whose request has not come to its end, and since when; what comes of it is dropped."""
        self._resets: dict[int, bool] = {}
        """Streams that were reset, the last ones: whether by us."""
        self._stream_window = WINDOW_DEFAULT
        self._room = CONNECTION_WINDOW_BYTES
        self._owed = 0
        self._announce = True
        self._now = 0.0

    def answer(self, number: int, fields: bytes, length: bytes, last: bytes, body: bytes) -> bool:
        """Sends a whole response on a stream for which `quick` was called: a block in three pieces, and a body.

        False, and nothing is sent, when the body does not fit into windows or a few frames, or the block into one.
        """
        size, block_bytes = len(body), len(fields) + len(length) + len(last)
        if self._announce or size > self.window or size > self._stream_window:
            return False
        if size > ANSWER_BYTES_MAX or block_bytes > FRAME_BYTES_MAX:
            return False
        head = HEAD.pack(block_bytes << 8 | _HEADERS, _END_HEADERS if size else WHOLE, number)
        if 0 < size <= FRAME_BYTES_MAX:
            self.window -= size
            self.out += (head, fields, length, last, HEAD.pack(size << 8, _END_STREAM, number), body)
        else:
            self.out += (head, fields, length, last)
            self._send_frames(number, memoryview(body))
        guard = self.guard
        if guard.credit < BURST:
            guard.earn()
        return True

    def _send_frames(self, number: int, rest: memoryview) -> None:
        self.window -= len(rest)
        while rest:
            part, rest = rest[:FRAME_BYTES_MAX], rest[FRAME_BYTES_MAX:]
            self.out += (HEAD.pack(len(part) << 8, 0 if rest else _END_STREAM, number), part)

    def send_fields(self, number: int, fields: Iterable[tuple[bytes, bytes]], *, end: bool) -> None:
        """A header block; in front of the first it says that no table is used (RFC 7541, section 4.2)."""
        block = hpack_literals.block(fields)
        if self._announce:
            self._announce = False
            block = hpack_literals.SIZE_UPDATE_TO_0 + block
        parts = [block[at : at + FRAME_BYTES_MAX] for at in range(0, len(block), FRAME_BYTES_MAX)]
        for index, part in enumerate(parts):
            kind = Kind.CONTINUATION if index else Kind.HEADERS
            flags = Flag.END_STREAM if end and not index else 0
            self.out.append(
                http2_frames.frame(kind, flags | (Flag.END_HEADERS if part is parts[-1] else 0), number, part)
            )
        if end:
            self._said_all(number)

    def send_data(self, number: int, data: bytes | memoryview, *, end: bool) -> None:
        """A frame of a body, of no more than `window_of` allows."""
        size = len(data)
        self.window -= size
        self._streams[number].window -= size
        self.out.append(HEAD.pack(size << 8, _END_STREAM if end else 0, number))
        self.out.append(data)
        if size >= USEFUL_BYTES_MIN:
            self.guard.earn()  # windows that the client opens for it are no flood
        if end:
            self._said_all(number)

    def window_of(self, number: int) -> int:
        """How much of a body may be sent in one frame for now; 0 or less for nothing."""
        return min(self.window, self._streams[number].window, FRAME_BYTES_MAX)

    def _said_all(self, number: int) -> None:
        """The response is whole."""
        self.guard.earn()
        if self._streams[number].heard_all:
            del self._streams[number]
        else:
            self._answered[number] = self._now

    def _heard_all(self, number: int) -> bool:
        """The request has come to its end; True when it has been answered already."""
        if self._answered.pop(number, None) is None:
            return False
        del self._streams[number]
        return True

    def expire(self, now: float) -> None:
        """Cuts short what is left of requests that were answered a while ago (section 8.1). To be called often."""
        for number, since in list(self._answered.items()):
            if now - since > LINGER_S:
                self.reset(number, ErrorCode.NO_ERROR)

    def reset(self, number: int, code: int) -> None:
        """Ends a stream in the middle; one that has ended stays as it is."""
        if self._forget(number):
            self._remember_reset(number, by_us=True)
            self.out.append(http2_frames.rst_stream(number, code))

    def _forget(self, number: int) -> bool:
        """False when there is no such stream."""
        self._answered.pop(number, None)
        return self._streams.pop(number, None) is not None

    def _remember_reset(self, number: int, *, by_us: bool) -> None:
        if len(self._resets) >= RESETS_REMEMBERED_MAX:
            del self._resets[next(iter(self._resets))]
        self._resets[number] = by_us

    def credit(self, number: int, size: int) -> None:
        """So much of a body has been read: the client may send as much again."""
        self._credit_all(size)
        stream = self._streams.get(number)
        if stream is None or stream.heard_all or number in self._answered:
            return
        stream.owed += size
        if stream.owed >= STREAM_WINDOW_BYTES // 2:
            stream.room += stream.owed
            self.out.append(http2_frames.window_update(number, stream.owed))
            stream.owed = 0

    def _credit_all(self, size: int) -> None:
        self._owed += size
        if self._owed >= CONNECTION_WINDOW_BYTES // 2:
            self._room += self._owed
            self.out.append(http2_frames.window_update(0, self._owed))
            self._owed = 0

    # ---- the end

    def leave_soon(self) -> None:
        """The client should begin no new streams; those that are on their way are still taken (section 6.8)."""
        self.out.append(http2_frames.goaway(http2_frames.NUMBER_MASK, ErrorCode.NO_ERROR))

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """No new streams; those that are open go on (section 6.8)."""
        self.refuses = True
        self.out.append(http2_frames.goaway(max(self.newest, 0), code, reason))

    def end(self, code: ErrorCode, reason: str = "") -> None:
        """Says why, and takes nothing more (section 5.4.1)."""
        if not self.over:
            self.go_away(code, reason)
            self.over = True
