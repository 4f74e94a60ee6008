"""HTTP/2 with one client (RFC 9113): frames and windows by `h2`, limits against floods, the rest as for HTTP/1.1."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingAckReceived,
    RequestReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings
from hpack import Encoder
from hyperframe.frame import GoAwayFrame

from agent.edge.core import http2_request
from agent.edge.core.flood import FloodGuard
from agent.edge.core.headers import HeaderList
from agent.edge.core.hpack_literals import LiteralEncoder
from agent.edge.core.request_head import Refused
from agent.edge.downstream import address_of
from agent.edge.http2_stream import NO_ERROR, Stream
from agent.edge.responder import Request

if TYPE_CHECKING:
    from agent.edge.listener import Listener

STREAMS_MAX: Final = 100
STREAM_WINDOW_BYTES: Final = 64 * 1024
CONNECTION_WINDOW_BYTES: Final = 4 * 2**20
STEP_BYTES: Final = 16 * 1024
"""Read at a time before the limits are looked at."""
USEFUL_BYTES_MIN: Final = 1024
# What may come as often as it likes, for its number is bounded by something else.
_FREE: Final = (StreamEnded, RequestReceived, SettingsAcknowledged, PingAckReceived)


def _configured(header_bytes_max: int) -> H2Connection:
    config = H2Configuration(
        client_side=False,
        header_encoding=None,
        validate_inbound_headers=False,  # core.http2_request does, and refuses a stream where h2 ends the connection
        normalize_inbound_headers=False,
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
    )
    connection = H2Connection(config)
    connection.encoder = cast(Encoder, LiteralEncoder())  # it has all of an encoder that h2 uses
    wanted = {
        SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS_MAX,
        SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
        SettingCodes.MAX_HEADER_LIST_SIZE: header_bytes_max,
        SettingCodes.ENABLE_PUSH: 0,
    }
    connection.local_settings = Settings(client=False, initial_values=wanted)
    connection.decoder.max_header_list_size = header_bytes_max
    return connection


class Http2Connection(asyncio.Protocol):
    """Streams of one client; each is answered as if it had come alone."""

    def __init__(self, listener: Listener, address: bytes = b""):
        """With an `address` that is not that of the connection when a load balancer has said so."""
        self._listener = listener
        self.state = listener.state
        self.address = address
        self._loop = listener.loop
        self._transport: asyncio.Transport | None = None
        self._h2 = _configured(self.state.settings.max_header_bytes)
        self._streams: dict[int, Stream] = {}
        self._ready: dict[int, Stream] = {}
        self._guard = FloodGuard()
        self._writable = True
        self._inside = False
        self._leaving = False
        self._newest = 0
        self._used_at = 0.0
        self._full_since = (0, 0.0)

    @property
    def transport(self) -> asyncio.Transport:
        """The transport of an established connection."""
        assert self._transport is not None
        return self._transport

    def now(self) -> float:
        """Monotonic seconds."""
        return self._loop.time()

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.address = self.address or address_of(transport)
        self._used_at = self.now()
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW_BYTES)
        self._listener.opened(self)
        self._write()

    def turn_away(self, message: str) -> None:
        """The connection is one too many."""
        self._go_away(ErrorCodes.ENHANCE_YOUR_CALM)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.closed(self)
        for stream in list(self._streams.values()):
            stream.abandon()
        self._streams.clear()
        self._ready.clear()

    def pause_writing(self) -> None:
        self._writable = False
        self._full_since = (self.transport.get_write_buffer_size(), self.now())
        self.transport.pause_reading()  # what is read now makes more to write

    def resume_writing(self) -> None:
        self._writable = True
        if not self.transport.is_closing():
            self.transport.resume_reading()
            self._flush()

    def data_received(self, data: bytes) -> None:
        self._inside = True
        try:
            for start in range(0, len(data), STEP_BYTES):
                if self.transport.is_closing() or not self._take(data[start : start + STEP_BYTES]):
                    break
        finally:
            self._inside = False
        self._flush()

    def _take(self, data: bytes) -> bool:
        try:
            events = self._h2.receive_data(data)
        except ProtocolError:  # h2 has made the frame that says so
            self.state.counters.refused_total += 1
            self._end()
            return False
        for event in events:
            self._heed(event)
            useful = event.data if isinstance(event, DataReceived) else isinstance(event, _FREE)
            if not useful and not self._guard.spend(self.now()):
                self.state.counters.refused_total += 1
                self._go_away(ErrorCodes.ENHANCE_YOUR_CALM)
                self._end()
                return False
        return True

    def _heed(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._begin(event)
            case DataReceived():
                self._used_at = self.now()
                stream = self._streams.get(event.stream_id)
                if stream is not None:
                    stream.fed(event.data, event.flow_controlled_length)
                else:
                    self.credit(event.stream_id, event.flow_controlled_length)
            case StreamEnded():
                stream = self._streams.get(event.stream_id)
                if stream is not None:
                    stream.heard()
            case StreamReset():
                stream = self._streams.get(event.stream_id)
                if stream is not None:
                    stream.abandon()
                    self._forget(stream)
            case ConnectionTerminated():
                self._leaving = True
                self._h2.state_machine.state = ConnectionState.SERVER_OPEN  # section 6.8: what runs is still wanted
                if not self._streams:
                    self._end()
            case _:
                pass  # settings, pings and windows are seen to by h2

    # ---- requests

    def _begin(self, event: RequestReceived) -> None:
        number, ended = event.stream_id, event.stream_ended is not None
        if self._leaving:
            self.reset(number, ErrorCodes.REFUSED_STREAM)
            return
        self._newest, self._used_at = number, self.now()
        stream = self._streams[number] = Stream(self, number)
        stream.heard_all = ended
        state = self.state
        try:
            head = http2_request.read(event.headers, self._listener.scheme, state.settings.max_headers, ended=ended)
            if len(head.target) > state.settings.max_url_bytes:
                raise Refused(414, "the request target is too long")
            if not ended:
                stream.body_bytes_max = most = state.body_bytes_max(head.host)
                if head.content_length > most:
                    raise Refused(413, f"the body is larger than {most} bytes")
        except Refused as refusal:
            stream.refuse(refusal)
            return
        key = state.key(self._listener.scheme, head.host, head.target)
        body = None if ended else stream.open_body()
        request = Request(head, key, body, state.request_id(), self._used_at)
        if state.rates is not None:
            request.wait_s = state.rates.wait_s(self.address, head.host, state.table)
        if not stream.answer_at_once(request, self._listener.exchange):
            stream.task = self._loop.create_task(self._serve(stream, request))

    async def _serve(self, stream: Stream, request: Request) -> None:
        try:
            await stream.serve(request, self._listener.exchange)
        finally:
            stream.task = None
            self._settle(stream)
            if not self.transport.is_closing():
                self._flush()

    def _settle(self, stream: Stream) -> None:
        """Forgets a stream that has been answered, whose task is over."""
        if stream.closed and stream.task is None and self._streams.get(stream.number) is stream:
            if not stream.heard_all:
                stream.abandon()
                self.reset(stream.number, NO_ERROR)  # RFC 9113 section 8.1: the rest need not be sent
            self._guard.earn()
            self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        self._streams.pop(stream.number, None)
        self._ready.pop(stream.number, None)
        if self._leaving and not self._streams:
            self._end()

    # ---- what streams send

    def send_fields(self, number: int, fields: HeaderList, *, end: bool) -> None:
        """A header block."""
        self._h2.send_headers(number, fields, end_stream=end)

    def send_data(self, number: int, data: bytes, *, end: bool) -> None:
        """A part of a body that the windows allow."""
        self._h2.send_data(number, data, end_stream=end)
        if len(data) >= USEFUL_BYTES_MIN:
            self._guard.earn()  # windows that the client opens for it are no flood

    def reset(self, number: int, code: int) -> None:
        """Ends a stream in the middle."""
        try:
            self._h2.reset_stream(number, code)
        except (StreamClosedError, ProtocolError):
            return  # it has ended meanwhile
        self._flush()

    def credit(self, number: int, size: int) -> None:
        """The client may send so much more."""
        if self._transport is not None and not self.transport.is_closing():
            self._h2.acknowledge_received_data(size, number)
            self._flush()

    def push(self, stream: Stream) -> None:
        """The stream has something to send, or has ended."""
        if stream.waits_to_send:
            self._ready[stream.number] = stream
        else:
            self._settle(stream)
        self._flush()

    def _flush(self) -> None:
        if self._inside or self.transport.is_closing():
            return
        self._inside = True
        try:
            while self._ready and self._writable and self._round():
                self._write()
        finally:
            self._inside = False
        self._write()

    def _round(self) -> bool:
        """One frame of each stream that may send one; False when none may."""
        moved = False
        h2, frame_max = self._h2, self._h2.max_outbound_frame_size
        for number, stream in list(self._ready.items()):
            if stream.waits_to_send and stream.emit(h2.local_flow_control_window(number), frame_max):
                moved = True
            if not stream.waits_to_send:
                self._ready.pop(number, None)
                self._settle(stream)
        return moved

    def _write(self) -> None:
        data = self._h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    # ---- the end

    def _go_away(self, code: int) -> None:
        """No new streams; those that run go on (RFC 9113 section 6.8)."""
        self._write()
        self.transport.write(GoAwayFrame(0, last_stream_id=self._newest, error_code=code).serialize())
        self._leaving = True

    def _end(self) -> None:
        self._write()
        self.transport.close()

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return bool(self._streams)

    def drain(self) -> None:
        """The worker stops: what runs is answered, nothing new is taken."""
        if self.transport.is_closing():
            return
        if not self._leaving:
            self._go_away(ErrorCodes.NO_ERROR)
        if not self._streams:
            self._end()

    def sweep(self, now: float) -> None:
        """Ends what takes too long. Called every now and then."""
        idle_s = self.state.settings.idle_timeout_s
        if self.transport.is_closing():
            return
        if not self._writable:
            size = self.transport.get_write_buffer_size()
            if size != self._full_since[0]:
                self._full_since = (size, now)
            elif now - self._full_since[1] > idle_s:
                self.transport.abort()
            return
        for stream in list(self._streams.values()):
            stream.sweep(now)
            self._settle(stream)
        if not self._streams and now - self._used_at > idle_s:
            self._go_away(ErrorCodes.NO_ERROR)
            self._end()
