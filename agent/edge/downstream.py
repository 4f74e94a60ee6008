"""One client's connection: answers hits at once, in order; hands the rest to the exchange; writes what comes back."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Final, cast

from agent.edge import cached, responses
from agent.edge.body import BUFFER_HIGH_BYTES, BodyReader
from agent.edge.core import cache_status, trailers
from agent.edge.core.cache_status import Forward
from agent.edge.core.entry import StoredResponse, Variants
from agent.edge.core.headers import HeaderList, encode_head
from agent.edge.core.http_rules import NO_HTTP_RULES
from agent.edge.core.request_head import Refused, RequestHead, switches
from agent.edge.fetcher import Incoming
from agent.edge.large import PIECE_BYTES, Large
from agent.edge.leaving import Leaving
from agent.edge.listening import address_of
from agent.edge.request_reader import PAUSE_QUEUE, PAUSE_TUNNEL
from agent.edge.responder import Request
from agent.edge.responses import Answer
from agent.edge.tunnel import Tunnel

if TYPE_CHECKING:
    from agent.edge.listener import Listener

QUEUE_MAX: Final = 16
COALESCED_BYTES_MAX: Final = 16 * 1024
"""A body up to this size is copied behind its head: cheaper than a second buffer on its way to the kernel."""
DISCARD_BYTES_MAX: Final = 1024 * 1024


class ClientConnection(Leaving):
    """HTTP/1.1 with one client, or with another edge when `peer`."""

    __slots__ = (
        "__weakref__",
        "_chunked",
        "_closes",
        "_large",
        "_paused",
        "_pending",
        "_rest",
        "_status",
        "_task",
        "_write_waiter",
    )

    def __init__(self, listener: Listener, address: bytes = b""):
        """With an `address` that is not that of the connection when a load balancer has said so."""
        super().__init__(listener, address)
        self._task: asyncio.Task[None] | None = None
        self._pending = b""
        self._chunked = False
        self._closes = False
        self._rest = b""
        self._write_waiter: asyncio.Future[None] | None = None
        self._paused = 0
        self._large: Large | None = None

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.address = self.address or address_of(transport)
        self._listener.opened(self)

    def turn_away(self, message: str) -> None:
        """The connection is one too many."""
        more = [(b"Retry-After", b"1"), (b"X-Request-Id", self._state.request_id())]
        self.transport.write(responses.last_words(503, message, self._state.wall(), more))
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.closed(self)
        self._deaf = True
        del self._parser  # each holds the other
        self._queue.clear()
        self._wake_writer()
        if self._tunnel is not None:
            self._tunnel.client_lost()
        if self._relay is not None:
            self._relay.abandon()
            self._relay = None
        if self._task is not None:
            self._task.cancel()
        if self._large is not None:
            self._large.over()
            self._large = None

    def eof_received(self) -> bool:
        """A client that has only closed its side still gets the answers that it waits for."""
        self._client_done = True
        waits = self._active is not None or bool(self._queue) or self.transport.get_write_buffer_size() > 0
        whole = self._between and self._tunnel is None and not self._linger_since
        if not waits or not whole or self._listener.tls is not None:
            return False
        self._deaf = True
        return True

    def pause_writing(self) -> None:
        self._writable = False
        self._unread.begin(self.transport, self._loop.time())
        if self._tunnel is not None:
            self._tunnel.client_full()
        if self._relay is not None:
            self._relay.client_full()

    def resume_writing(self) -> None:
        self._writable = True
        self._feed()
        self._wake_writer()
        if self._tunnel is not None:
            self._tunnel.client_drained()
        if self._relay is not None:
            self._relay.client_drained()
        self._pump()

    def pause(self, why: int) -> None:
        if not self._paused and not self.transport.is_closing():
            self.transport.pause_reading()
        self._paused |= why

    def resume(self, why: int) -> None:
        before, self._paused = self._paused, self._paused & ~why
        if before and not self._paused and not self.transport.is_closing():
            self.transport.resume_reading()

    # ---- requests

    def arrived(self, head: RequestHead, key: bytes, body: BodyReader | None) -> None:
        state = self._state
        wait_s = 0.0
        if state.rates is not None and not self.peer:
            wait_s = state.rates.wait_s(self.address, head.host, state.table)
        if self._active is None and not self._queue and self._writable:
            if head.plain and not state.draining and not wait_s:
                entry = state.store.get(key)
                if entry is None:
                    if body is None and self._sent_on(head, key):
                        return
                else:
                    if isinstance(entry, Variants):
                        entry = state.store.get(entry.key(key, head.fields))
                    if isinstance(entry, StoredResponse) and self._hit(head, entry):
                        return
            request = Request(head, key, body, state.request_id(), self._data_at)
            request.wait_s = wait_s
            self._start(request)
            return
        request = Request(head, key, body, state.request_id(), self._data_at)
        request.wait_s = wait_s
        self._queue.append(request)
        if len(self._queue) >= QUEUE_MAX:
            self.pause(PAUSE_QUEUE)

    def passed_on(self, head: RequestHead, key: bytes) -> None:
        """As `arrived`, for a plain GET for which nothing is stored in RAM and that nothing stands in the way of."""
        if not self._sent_on(head, key):
            self._start(Request(head, key, None, self._state.request_id(), self._data_at))

    def _hit(self, head: RequestHead, entry: StoredResponse) -> bool:
        """Sends a fresh entry as it is; False when it must be looked at more closely."""
        state = self._state
        now = state.wall()
        if now >= entry.fresh_until or entry.status != 200 or entry.checked != state.purge_round:
            return False
        size = len(entry.body)
        if size > PIECE_BYTES:
            return False
        request_id = state.request_id()
        head_bytes = entry.plain_head(now, request_id)
        if size <= COALESCED_BYTES_MAX:
            self.transport.write(head_bytes + entry.body)
        else:
            self.transport.writelines((head_bytes, entry.body))
        counters = state.counters
        counters.plain_hits += 1
        counters.body_bytes_sent_total += size
        if state.access_log is not None:
            state.access_log.hit(self.address, head, size, request_id)
        return True

    def refused(self, refusal: Refused) -> None:
        self._queue.append(refusal)
        self._pump()

    def upgraded(self, rest: bytes) -> None:
        self._rest = rest

    def beyond(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._tunnel.from_client(data)
        elif self._active is not None and switches(self._active.head.upgrade):
            self._rest += data
            if len(self._rest) > BUFFER_HIGH_BYTES:
                self.pause(PAUSE_TUNNEL)

    def _pump(self) -> None:
        """Starts what waits, one after the other."""
        queue = self._queue
        while queue and self._active is None and self._writable and not self.transport.is_closing():
            item = queue.popleft()
            if isinstance(item, Refused):
                self._send_refusal(item)
            else:
                self._start(item)
        if len(queue) < QUEUE_MAX:
            self.resume(PAUSE_QUEUE)

    def _start(self, request: Request) -> None:
        self._active = request
        self.response_begun = False
        if self.answer_at_once(request, self._listener.exchange):
            return
        exchange = self._listener.exchange
        self._relay = exchange.relay(self, request) or exchange.recall(self, request)
        if self._relay is None:
            self._task = self._loop.create_task(self._serve(request))

    def relayed(self, request: Request, *, again: bool = False) -> None:
        self._relay = None
        if again:
            self._task = self._loop.create_task(self._serve(request))
            return
        if self._large is not None:
            return
        self._active = None
        if not self.transport.is_closing():
            self._pump()

    def gone_on(self) -> None:
        if self._queue and not self.transport.is_closing():
            self._pump()

    def head_sent(self, status: int) -> None:
        self._chunked = self._closes = False
        self._pending, self._status = b"", status
        self._delimited = self.response_begun = True

    async def _serve(self, request: Request) -> None:
        try:
            await self.serve(request, self._listener.exchange)
        finally:
            self._task = None
            if self._active is request and self._large is None:
                self._active = None
            if self._transport is not None and not self._transport.is_closing():
                self._pump()

    # ---- responses

    def will_close(self, request: Request) -> bool:
        """Whether the connection ends with this response."""
        body = request.body
        if body is not None and not body.complete:
            left = request.head.content_length - body.size
            if request.head.expects_continue and not request.invited:
                return True  # whether the body still comes cannot be known (RFC 9110 section 10.1.1)
            if request.head.chunked or left > DISCARD_BYTES_MAX:
                return True
        return not request.head.keep_alive or (self._deaf and not self._queue) or self._state.draining

    def invite_body(self, request: Request) -> None:
        if request.head.expects_continue and not request.invited and request.body is not None:
            request.invited = True
            if request.body.size == 0:
                self.transport.write(responses.CONTINUE)

    def send_early(self, request: Request, status: int, headers: HeaderList) -> None:
        if request is self._active and request.head.minor and not self.response_begun:
            self.transport.write(encode_head(b"HTTP/1.1 %d %b" % (status, responses.reason_of(status)), headers))

    def send(self, request: Request, answer: Answer, *, close: bool = False) -> None:
        close = close or self.will_close(request)
        self.response_begun = True
        self._state.counters.status(answer.status)
        headers = answer.headers + cached.connection_header(request.head, close)
        head = encode_head(b"HTTP/1.1 %d %b" % (answer.status, answer.reason), headers)
        if len(answer.body) > PIECE_BYTES and not request.bodiless:
            self._send_large(head, answer.body, request, answer.status, close=close)
            return
        if answer.body and not request.bodiless:
            self.transport.writelines((head, answer.body))
        else:
            self.transport.write(head)
        self._end(request, answer.status, len(answer.body), close=close)

    def keeps_on(self, request: Request) -> bool:
        return request.http is NO_HTTP_RULES and not self.will_close(request)

    def send_whole(self, request: Request, entry: StoredResponse, now: float) -> None:
        size = len(entry.body)
        member = cache_status.hit_with(int(entry.ttl_s(now)), "second-tier")
        head = entry.plain_head(now, request.id, member)
        counters = self._state.counters
        counters.plain_hits += 1
        counters.body_bytes_sent_total += size
        request.cache_status = member
        if size > PIECE_BYTES:
            self._relay = None
            self._send_large(head, entry.body, request, 200, close=False)
            return
        if size <= COALESCED_BYTES_MAX:
            self.transport.write(head + entry.body)
        else:
            self.transport.writelines((head, entry.body))
        self._log(request, 200, size)
        self._active = self._relay = None
        if self._queue:
            self.gone_on()

    def _send_large(self, head: bytes, body: bytes | memoryview, request: Request, status: int, *, close: bool) -> None:
        """Sends a stored body as the client takes it."""
        self._large = Large(self._state.loans, body, request, status, close=close)
        self.transport.write(head)
        self._feed()

    def _feed(self) -> None:
        while (large := self._large) is not None and self._writable and not self.transport.is_closing():
            if large.feed(self.transport):
                large.over()
                self._large = None
                self._end(large.request, large.status, large.size, close=large.close)
                if self._task is None and not self.transport.is_closing():
                    self._pump()

    def begin_response(
        self, request: Request, status: int, reason: bytes, headers: HeaderList, length: int | None
    ) -> None:
        """Framed by length, by chunks, or by the end of the connection (RFC 9112 section 6.3)."""
        head = request.head
        bodiless = request.bodiless or status in (204, 304)
        self._chunked = chunked = length is None and not bodiless and head.minor > 0
        self._closes = close = self.will_close(request) or (length is None and not bodiless and not chunked)
        framing = cached.connection_header(head, close)
        if length is not None and status != 204:
            framing.append((b"Content-Length", b"%d" % length))
        elif chunked:
            framing.append((b"Transfer-Encoding", b"chunked"))
        self._pending = encode_head(b"HTTP/1.1 %d %b" % (status, reason), headers + framing)
        self.response_begun = True
        self._delimited = not close or chunked or length is not None
        self._status = status
        self._state.counters.status(status)

    def flush(self) -> None:
        if self._pending:
            self.transport.write(self._pending)
            self._pending = b""

    def put(self, data: bytes) -> bool:
        pending, self._pending = self._pending, b""
        if self._chunked:
            self.transport.writelines((b"%b%x\r\n" % (pending, len(data)), data, b"\r\n"))
        elif pending and len(data) > COALESCED_BYTES_MAX:
            self.transport.writelines((pending, data))
        else:
            self.transport.write(pending + data)
        return self._writable

    async def write(self, data: bytes) -> None:
        self.put(data)
        while not self._writable and not self.transport.is_closing():
            self._write_waiter = self._loop.create_future()
            await self._write_waiter

    def end_response(self, request: Request, size: int, trailing: HeaderList) -> None:
        pending, self._pending = self._pending, b""
        if self._chunked and trailing and trailers.wanted(request.head.fields):
            self.transport.write(pending + encode_head(b"0", trailers.passed_on(trailing)))  # RFC 9112 section 7.1.2
        elif pending or self._chunked:
            self.transport.write(pending + b"0\r\n\r\n" if self._chunked else pending)
        self._end(request, self._status, size, close=self._closes)

    def _end(self, request: Request, status: int, size: int, *, close: bool) -> None:
        self._log(request, status, size)
        if request.body is not None and not request.body.complete:
            request.body.discard()
        if close:
            self._close(request)
        if self._task is None:
            self._active = None  # a task goes on with the next request itself when it ends

    def _send_refusal(self, refusal: Refused) -> None:
        state = self._state
        more = [
            (cache_status.NAME, cache_status.forwarded(Forward.BYPASS, detail="refused")),
            (b"X-Request-Id", state.request_id()),
        ]
        self.transport.write(responses.last_words(refusal.status, refusal.text, state.wall(), more))
        state.counters.status(refusal.status)
        self._linger()

    def break_off(self) -> None:
        """RFC 9112 section 8."""
        self.flush()
        if self._delimited:
            self.transport.close()
        else:
            sock = self.transport.get_extra_info("socket")
            if sock is not None:  # only a reset tells it from the end
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        self._deaf = True

    async def tunnel(self, request: Request, incoming: Incoming, headers: HeaderList) -> None:
        fields = incoming.connection.fields
        more = [(b"Connection", b"Upgrade"), (b"Upgrade", fields.get(b"upgrade", request.head.upgrade))]
        self.response_begun, self._delimited = True, False
        self._state.counters.status(101)
        self.transport.write(encode_head(b"HTTP/1.1 101 Switching Protocols", headers + more))
        self._tunnel = Tunnel(self.transport, incoming.connection)
        rest, self._rest = self._rest, b""
        self.resume(PAUSE_TUNNEL)
        try:
            await self._tunnel.run(rest, incoming.connection.raw_rest)
        finally:
            await incoming.abandon()
            self._deaf = True
            self._log(request, 101, 0)
            self.transport.close()

    def _wake_writer(self) -> None:
        if self._write_waiter is not None and not self._write_waiter.done():
            self._write_waiter.set_result(None)

    def _log(self, request: Request, status: int, size: int) -> None:
        access_log = self._state.access_log
        if access_log is not None:
            took = self._loop.time() - request.started_s
            member = request.cache_status
            access_log.record(self.address, request.head, status, size, took, member, request.id, request.app)
