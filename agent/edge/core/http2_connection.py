"""The server's side of an HTTP/2 connection (RFC 9113): octets in; requests and bodies out, and octets for the client.

Frames, states of streams, windows and limits against floods are here; what a request means and what is answered is the
user's. A fault of the client's on one stream ends that stream, one of the connection everything (section 5.4).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agent.edge.core import http2_frames, http2_request
from agent.edge.core.hpack_decoding import Block, Decoder, HpackError
from agent.edge.core.http2_frames import (
    FRAME_BYTES_MAX,
    HEAD,
    HEAD_BYTES,
    NUMBER_MASK,
    PREFACE,
    WINDOW_DEFAULT,
    WINDOW_MAX,
    ConnectionFault,
    ErrorCode,
    Flag,
    Kind,
    Setting,
    unpadded,
)
from agent.edge.core.http2_streams import (
    CONNECTION_WINDOW_BYTES,
    STREAM_WINDOW_BYTES,
    STREAMS_MAX,
    WHOLE,
    Open,
    Streams,
)
from agent.edge.core.http2_user import NOBODY, User

_HEADERS: Final = int(Kind.HEADERS)
_CONTINUATION: Final = int(Kind.CONTINUATION)
_U32: Final = struct.Struct(">I")


@dataclass(slots=True)
class _Partial:
    """A header block whose end has not come."""

    number: int
    ended: bool
    on_itself: bool
    data: bytearray


class Connection(Streams):
    """Not for several threads. Sizes are octets, times monotonic seconds."""

    def __init__(self, user: User, block_bytes_max: int):
        """Header blocks and lists of fields of more than `block_bytes_max` are refused."""
        super().__init__()
        self._user = user
        self._quick = user.quick
        self._block_bytes_max = block_bytes_max
        self._decoder = Decoder(block_bytes_max)
        self._row = 1
        """All odd numbers from here to the newest were opened."""
        self._rest = b""
        self._greeted = self._introduced = False
        self._partial: _Partial | None = None
        self.unfinished = False
        self._unfinished_since = 0.0
        self._unacknowledged = 1
        wanted = {
            Setting.MAX_CONCURRENT_STREAMS: STREAMS_MAX,
            Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
            Setting.MAX_HEADER_LIST_SIZE: block_bytes_max,
            Setting.NO_RFC7540_PRIORITIES: 1,
        }
        self.out.append(http2_frames.settings(wanted))
        self.out.append(http2_frames.window_update(0, CONNECTION_WINDOW_BYTES - WINDOW_DEFAULT))

    # ---- what comes

    def receive(self, data: bytes, now: float) -> None:
        """Takes what the client has sent; nothing more when the connection is over."""
        if self.over:
            return
        self._now = now
        if self._rest:
            data, self._rest = self._rest + data, b""
        try:
            at = self._frames(data) if self._greeted else self._greeting(data)
        except ConnectionFault as fault:
            self.end(fault.code, fault.reason)
            return
        self._rest = data[at:]
        if self._partial is None and (at or not self._rest or self._rest[3:4] == b"\0"):
            self._unfinished_since = now  # what is unfinished has only begun, or is a body, which has other limits
        self.unfinished = self._partial is not None or (bool(self._rest) and self._rest[3:4] != b"\0")

    def unfinished_s(self, now: float) -> float:
        """For how long the client has owed the rest of a header block, or of a frame other than DATA."""
        return now - self._unfinished_since if self.unfinished else 0.0

    def coming(self, number: int) -> int:
        """How much has come of a frame with a body that is not whole."""
        rest = self._rest
        if len(rest) <= HEAD_BYTES or rest[3] != Kind.DATA or HEAD.unpack_from(rest)[2] & NUMBER_MASK != number:
            return 0
        return len(rest) - HEAD_BYTES

    def _greeting(self, data: bytes) -> int:
        """Section 3.4."""
        if data[: len(PREFACE)] != PREFACE[: len(data)]:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the connection preface is none")
        if len(data) < len(PREFACE):
            return 0
        self._greeted = True
        return self._frames(data, len(PREFACE))

    def _frames(self, data: bytes, at: int = 0) -> int:
        """Takes whole frames; returns where the first that is not whole begins."""
        size, head, quick, streams = len(data), HEAD.unpack_from, self._quick, self._streams
        known = self._decoder.remembered
        while size - at >= HEAD_BYTES:
            word, flags, number = head(data, at)
            length = word >> 8
            start = at + HEAD_BYTES
            end = start + length
            if length > FRAME_BYTES_MAX:  # section 4.2
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of more than {FRAME_BYTES_MAX} bytes")
            if end > size:
                break
            at = end
            # The common request: a whole block that came before, on the next stream.
            if flags == WHOLE and word & 0xFF == _HEADERS and number == self.newest + 2 and self._partial is None:
                block = known.get(data[start:end])
                if block is not None and len(streams) < STREAMS_MAX and not self.refuses:
                    self.newest = number
                    if not quick(number, block):
                        self._open(number, block, ended=True)
                    continue
            self._frame(word & 0xFF, flags, number & NUMBER_MASK, data[start:end])
            if self.over:
                break
        return at

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        partial = self._partial
        if partial is not None and (kind != _CONTINUATION or number != partial.number):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame in the middle of a header block")
        if not self._introduced:
            if kind != Kind.SETTINGS or flags & Flag.ACK:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._introduced = True
        take = _BY_KIND.get(kind)
        if take is None:  # section 5.5
            self._useless()
        else:
            take(self, flags, number, payload)

    def _useless(self) -> None:
        """Takes note of something that costs the client little and may cost much here."""
        if not self.guard.spend(self._now):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too much that asks for nothing")

    # ---- requests

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        """Section 6.2."""
        if number % 2 == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS on a stream that a client cannot open")
        payload = unpadded(flags, payload)
        on_itself = False
        if flags & Flag.PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for a priority")
            on_itself = _U32.unpack_from(payload)[0] & NUMBER_MASK == number
            payload = payload[5:]
        ended = bool(flags & Flag.END_STREAM)
        if flags & Flag.END_HEADERS:
            self._block(number, payload, ended, on_itself)
        else:
            self._partial = _Partial(number, ended, on_itself, bytearray(payload))

    def _continuation(self, flags: int, number: int, payload: bytes) -> None:
        """Section 6.10."""
        partial = self._partial
        if partial is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._useless()
        partial.data += payload
        if len(partial.data) > self._block_bytes_max:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"a header block of over {self._block_bytes_max} bytes")
        if flags & Flag.END_HEADERS:
            self._partial = None
            self._block(number, bytes(partial.data), partial.ended, partial.on_itself)

    def _block(self, number: int, data: bytes, ended: bool, on_itself: bool) -> None:
        try:
            block = self._decoder.decode(data)
        except HpackError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, str(error)) from error
        if number <= self.newest:
            self._trailers(number, block, ended)
            return
        if number != self.newest + 2:
            self._row = number
        self.newest = number
        if on_itself:
            self._stream_fault(number, ErrorCode.PROTOCOL_ERROR)
        elif self.refuses or not self._has_room():
            self._stream_fault(number, ErrorCode.REFUSED_STREAM)
        elif not ended or not self._quick(number, block):
            self._open(number, block, ended=ended)

    def _has_room(self) -> bool:
        """Whether there may be one more stream (section 5.1.2)."""
        if len(self._streams) >= STREAMS_MAX and self._answered:
            self.reset(next(iter(self._answered)), ErrorCode.NO_ERROR)
        return len(self._streams) < STREAMS_MAX

    def _open(self, number: int, block: Block, *, ended: bool) -> None:
        self._streams[number] = Open(self._stream_window, ended)
        self._user.request(number, block, ended)

    def _trailers(self, number: int, block: Block, ended: bool) -> None:
        """A second block of a stream (section 8.1)."""
        stream = self._streams.get(number)
        if stream is None:
            if number < self._row:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a stream is opened after a later one")
            self._on_closed(number)
        elif stream.heard_all:
            self._stream_fault(number, ErrorCode.STREAM_CLOSED)
        elif not ended or block.oversized or stream.left > 0 or not http2_request.are_trailers(block.fields):
            self._stream_fault(number, ErrorCode.PROTOCOL_ERROR)
        else:
            stream.heard_all = True
            if not self._heard_all(number):
                self._user.trailing(number, block.fields)
                self._user.whole(number)

    def expect(self, number: int, length: int) -> None:
        """So long is the body that was announced: another length is a fault (section 8.1.1)."""
        stream = self._streams.get(number)
        if stream is not None:
            stream.left = length

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        """Section 6.1."""
        if number > self.newest or number % 2 == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA on a stream that is not open")
        cost = len(payload)
        self._room -= cost
        if self._room < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window allows")
        data, ended = unpadded(flags, payload), bool(flags & Flag.END_STREAM)
        stream = self._streams.get(number)
        if stream is None:
            self._credit_all(cost)
            self._on_closed(number)
            return
        fault = self._data_fault(stream, len(data), cost, ended)
        if fault is not None:
            self._credit_all(cost)
            self._stream_fault(number, fault)
            return
        stream.heard_all = ended
        if not data and not ended:
            self._useless()
        if number in self._answered:
            self._credit_all(cost)
            if not stream.room and not ended:
                self.reset(number, ErrorCode.NO_ERROR)
        elif cost:
            self._user.body(number, data, cost)
        if ended and not self._heard_all(number):
            self._user.whole(number)

    def _data_fault(self, stream: Open, size: int, cost: int, ended: bool) -> ErrorCode | None:
        """What is wrong with some of a body, and counts it."""
        if stream.heard_all:
            return ErrorCode.STREAM_CLOSED
        stream.room -= cost
        if stream.room < 0:
            return ErrorCode.FLOW_CONTROL_ERROR
        if stream.left >= 0:
            stream.left -= size
            if stream.left < 0 or (ended and stream.left):
                return ErrorCode.PROTOCOL_ERROR
        return None

    def _on_closed(self, number: int) -> None:
        """HEADERS or DATA on a closed stream (section 5.1)."""
        by_us = self._resets.get(number)
        if by_us is None:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, "a frame on a stream that has ended")
        self._useless()
        if not by_us:
            self.out.append(http2_frames.rst_stream(number, ErrorCode.STREAM_CLOSED))

    # ---- the other frames

    def _priority(self, flags: int, number: int, payload: bytes) -> None:
        """Section 6.3: of no use, but for its faults."""
        if not number:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY of the connection")
        if len(payload) != 5:
            self._fault_anywhere(number, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of a length that is not 5")
        elif _U32.unpack_from(payload)[0] & NUMBER_MASK == number:  # RFC 7540, section 5.3.1
            self._fault_anywhere(number, ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")
        else:
            self._useless()

    def _priority_update(self, flags: int, number: int, payload: bytes) -> None:
        """RFC 9218 section 7.1. Streams with even numbers are pushes, and there are none."""
        if number:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY_UPDATE of a stream")
        if len(payload) < 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY_UPDATE of less than 4 bytes")
        of = _U32.unpack_from(payload)[0] & NUMBER_MASK
        if of % 2 == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY_UPDATE of a stream that a client cannot open")
        self._useless()
        if of > self.newest or of in self._streams:
            self._user.prioritised(of, payload[4:])

    def _fault_anywhere(self, number: int, code: ErrorCode, reason: str) -> None:
        """A fault on a stream that may not be open yet, and then cannot be reset."""
        if number > self.newest:
            raise ConnectionFault(code, reason)
        if number in self._streams:
            self._stream_fault(number, code)
        else:
            self._useless()

    def _rst_stream(self, flags: int, number: int, payload: bytes) -> None:
        """Section 6.4."""
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of a length that is not 4")
        if number > self.newest or number % 2 == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "RST_STREAM of a stream that is not open")
        self._useless()
        if self._forget(number):
            self._remember_reset(number, by_us=False)
            self._user.broken(number)

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        """Section 6.5."""
        if number:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS of a stream")
        if flags & Flag.ACK:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS that acknowledge and say something")
            if not self._unacknowledged:
                self._useless()
            self._unacknowledged = 0
            return
        self._useless()
        said = http2_frames.read_settings(payload)
        if said.header_table_size is not None:
            self._announce = True
        if said.initial_window_size is not None:
            self._shift_windows(said.initial_window_size)
        self.out.append(http2_frames.frame(Kind.SETTINGS, Flag.ACK, 0))

    def _shift_windows(self, size: int) -> None:
        """Section 6.9.2."""
        by, self._stream_window = size - self._stream_window, size
        for stream in self._streams.values():
            stream.window += by
            if stream.window > WINDOW_MAX:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")

    def _push_promise(self, flags: int, number: int, payload: bytes) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "clients cannot push")

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        """Section 6.7."""
        if number:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING of a stream")
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING of a length that is not 8")
        self._useless()
        if not flags & Flag.ACK:
            self.out.append(http2_frames.frame(Kind.PING, Flag.ACK, 0, payload))

    def _goaway(self, flags: int, number: int, payload: bytes) -> None:
        """Section 6.8."""
        if number:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY of a stream")
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY of less than 8 bytes")
        self._useless()
        self.refuses = True
        self._user.leaves()

    def _window_update(self, flags: int, number: int, payload: bytes) -> None:
        """Section 6.9."""
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a length that is not 4")
        if number and (number > self.newest or number % 2 == 0):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of a stream that is not open")
        self._useless()
        size = _U32.unpack(payload)[0] & NUMBER_MASK
        stream = self._streams.get(number)
        window = self.window if not number else stream.window if stream is not None else 0
        fault = ErrorCode.PROTOCOL_ERROR if not size else ErrorCode.FLOW_CONTROL_ERROR
        if not size or window + size > WINDOW_MAX:
            if not number:
                raise ConnectionFault(fault, "a window is opened by nothing, or too far")
            if stream is not None:
                self._stream_fault(number, fault)
            return
        if not number:
            self.window += size
        elif stream is not None:
            stream.window += size

    # ---- the end

    def malformed(self, number: int) -> None:
        """The request is no request (section 8.1.1); the stream may have been answered."""
        self._stream_fault(number, ErrorCode.PROTOCOL_ERROR)

    def _stream_fault(self, number: int, code: ErrorCode) -> None:
        """Section 5.4.2."""
        self._useless()
        self._remember_reset(number, by_us=True)
        self.out.append(http2_frames.rst_stream(number, code))
        if self._forget(number):
            self._user.broken(number)

    def leave_alone(self) -> None:
        """The user has gone: each held the other."""
        self._user = NOBODY
        self._quick = NOBODY.quick

    def forget_blocks(self) -> None:
        """Gives back the memory that the next requests would be read quicker with."""
        self._decoder.remembered.clear()


_BY_KIND: Final[dict[int, Callable[[Connection, int, int, bytes], None]]] = {
    Kind.DATA: Connection._data,
    Kind.HEADERS: Connection._headers,
    Kind.PRIORITY: Connection._priority,
    Kind.RST_STREAM: Connection._rst_stream,
    Kind.SETTINGS: Connection._settings,
    Kind.PUSH_PROMISE: Connection._push_promise,
    Kind.PING: Connection._ping,
    Kind.GOAWAY: Connection._goaway,
    Kind.WINDOW_UPDATE: Connection._window_update,
    Kind.CONTINUATION: Connection._continuation,
    Kind.PRIORITY_UPDATE: Connection._priority_update,
}
