"""HTTP/2 with one client (RFC 9113): what is stored is answered at once, the rest stream by stream as for HTTP/1.1."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from agent.edge.core import http2_priority, http2_request, trailers
from agent.edge.core.entry import StoredResponse, Variants
from agent.edge.core.headers import HeaderList
from agent.edge.core.hpack_decoding import Block
from agent.edge.core.http2_connection import Connection
from agent.edge.core.http2_frames import ErrorCode
from agent.edge.core.http2_priority import Priority
from agent.edge.core.request_head import Refused, RequestHead
from agent.edge.core.routing import Table
from agent.edge.http2_stream import Stream
from agent.edge.listening import address_of
from agent.edge.responder import Request
from agent.edge.unread import Unread

if TYPE_CHECKING:
    from agent.edge.listener import Listener

GATHERED_BYTES_MAX: Final = 64 * 1024
"""Answers that wait for the end of what has been received, before they are sent."""
BLOCKS_KEPT_S: Final = 5.0
"""After so long without a request what would make the next ones quicker is forgotten."""
LEAVE_S: Final = 0.3
"""So long after the edge has said that it leaves what was on its way is answered, then as long refused, to be made
again."""
KIND: Final = b"h2"
SHARED_BYTES_MAX: Final = 2048
"""Requests with fields up to this size are remembered for all connections."""
_LENGTHS: Final = [bytes((length,)) for length in range(127)]
"""Of a string in a header block that is not coded (RFC 7541 section 5.2)."""


class Known:
    """What a header block without a body means on a connection, as long as the table is the same."""

    __slots__ = ("head", "key", "table")

    def __init__(self, table: Table, head: RequestHead, key: bytes):
        self.table = table
        self.head = head
        self.key = key


class Http2Connection(asyncio.Protocol):
    """Streams of one client; each is answered as if it had come alone."""

    def __init__(self, listener: Listener, address: bytes = b""):
        """With an `address` that is not that of the connection when a load balancer has said so."""
        self._listener = listener
        self.state = listener.state
        self.address = address
        self._loop = listener.loop
        self._transport: asyncio.Transport | None = None
        self._core = Connection(self, self.state.settings.max_header_bytes)
        self._streams: dict[int, Stream] = {}
        self._ready: dict[int, Stream] = {}
        self._writable = True
        self._inside = False
        self._gathered = 0
        self._wall = 0.0
        self._second = 0
        self._wait_s = 0.0
        self._used_at = 0.0
        self._leaves_at = 0.0
        self._unread = Unread()
        self._priorities: dict[int, Priority] = {}
        """Of streams that have one, open or not."""

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
        self._listener.opened(self)
        self._write()

    def turn_away(self, message: str) -> None:
        """The connection is one too many."""
        self._core.end(ErrorCode.ENHANCE_YOUR_CALM, message)
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.closed(self)
        self._abandon_all()
        self._core.leave_alone()

    def _abandon_all(self) -> None:
        for stream in list(self._streams.values()):
            stream.abandon()
        self._streams.clear()
        self._ready.clear()
        self._priorities.clear()

    def pause_writing(self) -> None:
        self._writable = False
        self._unread.begin(self.transport, self.now())
        self.transport.pause_reading()  # what is read now makes more to write

    def resume_writing(self) -> None:
        self._writable = True
        if not self.transport.is_closing():
            self.transport.resume_reading()
            self._flush()

    def data_received(self, data: bytes) -> None:
        core = self._core
        if core.over or self.transport.is_closing():
            return
        self._inside = True
        newest, now = core.newest, self._loop.time()
        self._wall = wall = self.state.wall()
        self._second = int(wall)
        try:
            core.receive(data, now)
        finally:
            self._inside = False
        if core.newest != newest:
            self._used_at = now
        if core.over:
            self.state.counters.refused_total += 1
            self._abandon_all()
            self._end()
        elif self._ready:
            self._flush()
        elif not self.transport.is_closing():
            self._write()

    # ---- what the client asks for (core.http2_connection.User)

    def quick(self, number: int, block: Block) -> bool:
        """Sends a fresh entry as it is; False when it must be looked at more closely."""
        state = self.state
        known: Known | None = block.known
        if known is None or known.table is not state.table:
            known = self._understood(block)
            if known is None:
                return False
        head, key = known.head, known.key
        if not head.plain or state.draining or not self._writable:
            return False
        entry = state.store.get(key)
        if isinstance(entry, Variants):
            entry = state.store.get(entry.key(key, head.fields))
        if entry.__class__ is not StoredResponse:
            return False
        now = self._wall
        if now >= entry.fresh_until or entry.status != 200 or entry.checked != state.purge_round:
            return False
        if state.rates is not None:
            self._wait_s = state.rates.wait_s(self.address, head.host, state.table)
            if self._wait_s:
                return False
        fields = entry.block if entry.block_second == self._second else entry.render_block(now)
        body, request_id = entry.body, state.request_id()
        if not self._core.answer(number, fields, _LENGTHS[len(request_id)], request_id, body):
            return False
        size = len(body)
        counters = state.counters
        counters.plain_hits += 1
        counters.body_bytes_sent_total += size
        if state.access_log is not None:
            state.access_log.hit(self.address, head, size, request_id)
        self._gathered += size
        if self._gathered > GATHERED_BYTES_MAX:
            self._write()
        return True

    def _understood(self, block: Block) -> Known | None:
        """What a request without a body means; None when it is refused."""
        state = self.state
        heads, fields = state.known_heads.of(KIND), tuple(block.fields)
        found = heads.get(fields)
        if found is None:
            try:
                head = self._read(block, ended=True)
            except Refused:
                return None
            found = (head, state.key(self._listener.scheme, head.host, head.target))
            if block.size <= SHARED_BYTES_MAX:
                state.known_heads.remember(KIND, fields, block.size, *found)
        block.known = known = Known(state.table, *found)
        return known

    def _read(self, block: Block, *, ended: bool) -> RequestHead:
        """Raises Refused."""
        settings = self.state.settings
        if block.oversized:
            raise Refused(431, f"the header fields are larger than {settings.max_header_bytes} bytes")
        head = http2_request.read(block.fields, self._listener.scheme, settings.max_headers, ended=ended)
        if len(head.target) > settings.max_url_bytes:
            raise Refused(414, "the request target is too long")
        return head

    def request(self, number: int, block: Block, ended: bool) -> None:
        """A request that needs more than a look into the cache."""
        self._used_at = self.now()
        stream = self._streams[number] = Stream(self, number)
        stream.heard_all = ended
        state = self.state
        known: Known | None = block.known if ended else None
        if known is not None and known.table is state.table:
            head, key = known.head, known.key
        else:
            try:
                head = self._read(block, ended=ended)
                if not ended:
                    stream.body_bytes_max = most = state.body_bytes_max(head.host)
                    if head.content_length > most:
                        raise Refused(413, f"the body is larger than {most} bytes")
            except Refused as refusal:
                stream.refuse(refusal)
                if refusal.status == 400:  # RFC 9113 section 8.1.1
                    self._core.malformed(number)
                return
            key = state.key(self._listener.scheme, head.host, head.target)
            if not head.chunked:
                self._core.expect(number, head.content_length)
        if b"priority" in head.fields and number not in self._priorities:
            self.prioritised(number, head.fields[b"priority"])
        request = Request(head, key, None if ended else stream.open_body(), state.request_id(), self._used_at)
        request.wait_s, self._wait_s = self._wait_s, 0.0
        if state.rates is not None and not request.wait_s:
            request.wait_s = state.rates.wait_s(self.address, head.host, state.table)
        if not stream.answer_at_once(request, self._listener.exchange):
            stream.task = self._loop.create_task(self._serve(stream, request))

    def body(self, number: int, data: bytes, cost: int) -> None:
        """Some of a body."""
        self._used_at = self.now()
        stream = self._streams.get(number)
        if stream is not None:
            stream.fed(data, cost)
        else:
            self.credit(number, cost)

    def trailing(self, number: int, fields: list[tuple[bytes, bytes]]) -> None:
        """What came behind a body."""
        stream = self._streams.get(number)
        if stream is not None and stream.body is not None:
            stream.body.trailers.extend(fields[: trailers.FIELDS_MAX + 1])

    def whole(self, number: int) -> None:
        """The end of a body."""
        stream = self._streams.get(number)
        if stream is not None:
            stream.heard()

    def broken(self, number: int) -> None:
        """A stream was reset."""
        stream = self._streams.get(number)
        if stream is not None:
            stream.abandon()
            self._forget(stream)

    def prioritised(self, number: int, value: bytes) -> None:
        """How urgent a stream is that is open, or will be."""
        priorities = self._priorities
        priorities[number] = http2_priority.read(value)
        while len(priorities) - len(self._streams) > http2_priority.REMEMBERED_MAX:
            del priorities[next(iter(priorities))]

    def wanted(self, number: int, value: bytes) -> None:
        """How urgent the app says that its response is."""
        said = self._priorities.get(number, http2_priority.UNSAID)
        self._priorities[number] = http2_priority.merged(said, value)

    def leaves(self) -> None:
        """The client makes no new requests."""
        if not self._streams:
            self._end()

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
            self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        self._streams.pop(stream.number, None)
        self._ready.pop(stream.number, None)
        self._priorities.pop(stream.number, None)
        if stream.body is not None:
            stream.body.discard()
            stream.body.release()
        if self._core.refuses and not self._streams and self.now() >= self._leaves_at:
            self._end()

    # ---- what streams send

    def send_fields(self, number: int, fields: HeaderList, *, end: bool) -> None:
        """A header block."""
        self._core.send_fields(number, fields, end=end)

    def send_data(self, number: int, data: bytes | memoryview, *, end: bool) -> None:
        """A part of a body that the windows allow."""
        self._core.send_data(number, data, end=end)

    def room(self, number: int) -> int:
        """How much of a body may be sent now; 0 or less for nothing."""
        return self._core.window_of(number)

    def coming(self, number: int) -> int:
        """How much of a body has come but is not a whole frame."""
        return self._core.coming(number)

    def reset(self, number: int, code: ErrorCode) -> None:
        """Ends a stream in the middle."""
        self._core.reset(number, code)
        self._flush()

    def credit(self, number: int, size: int) -> None:
        """The client may send so much more."""
        self._core.credit(number, size)
        if not self._inside:
            self._write()

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
        """One frame of each stream whose turn it is; False when none may send."""
        if self._priorities and len(self._ready) > 1:
            said = self._priorities
            waiting = [(number, said.get(number, http2_priority.UNSAID)) for number in self._ready]
            return http2_priority.send_round(waiting, self._emit)
        moved = False
        for number in list(self._ready):
            moved = self._emit(number) or moved
        return moved

    def _emit(self, number: int) -> bool:
        """Sends one frame of a stream; False when its windows do not allow any."""
        stream = self._ready[number]
        moved = stream.waits_to_send and stream.emit()
        if not stream.waits_to_send:
            self._ready.pop(number, None)
            self._settle(stream)
        return moved

    def _write(self) -> None:
        out = self._core.out
        self._gathered = 0
        if out:
            data = b"".join(out)
            out.clear()
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(data)

    # ---- the end

    def _end(self) -> None:
        self._write()
        self.transport.close()

    @property
    def unsettled(self) -> bool:
        """Whether a request is being answered, or may be on its way."""
        return not self.transport.is_closing() or self.transport.get_write_buffer_size() > 0

    def drain(self, now: float) -> None:
        """The worker stops: what runs is answered, nothing new is taken."""
        if self.transport.is_closing():
            return
        if not self._leaves_at:
            self._leaves_at = now + LEAVE_S
            self._core.leave_soon()
            self._write()
        elif now >= self._leaves_at and not self._core.refuses:
            self._leaves_at = now + LEAVE_S
            self._core.go_away()
            self._write()
        if self._core.refuses and not self._streams and now >= self._leaves_at:
            self._end()

    def retire(self, now: float) -> None:
        """Another worker is there; GOAWAY loses no request (RFC 9113 section 6.8)."""
        self.drain(now)

    def sweep(self, now: float) -> None:
        """Ends what takes too long. Called every now and then."""
        settings, core = self.state.settings, self._core
        if self.transport.is_closing():
            return
        if not self._writable:
            if self._unread.too_slow(self.transport, now, settings):
                self.transport.abort()
            return
        for stream in list(self._streams.values()):
            stream.sweep(now)
            self._settle(stream)
        core.expire(now)
        self._write()
        if core.unfinished_s(now) > settings.header_timeout_s:
            core.end(ErrorCode.ENHANCE_YOUR_CALM, f"a request took longer than {settings.header_timeout_s:g} s")
            self.state.counters.refused_total += 1
            self._abandon_all()
            self._end()
        elif core.refuses and not self._streams and now >= self._leaves_at:
            self._end()
        elif not self._streams and now - self._used_at > settings.idle_timeout_s:
            core.end(ErrorCode.NO_ERROR)
            self._end()
        elif now - self._used_at > BLOCKS_KEPT_S:
            core.forget_blocks()
