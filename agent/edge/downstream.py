"""One client's connection: answers hits at once, in order; hands the rest to the exchange; writes what comes back."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Final, cast

import structlog

from agent.edge import cached, responses
from agent.edge.body import BUFFER_HIGH_BYTES, BodyReader
from agent.edge.core import cache_status
from agent.edge.core.cache_status import Forward
from agent.edge.core.entry import RENDER_BODY_BYTES_MAX, StoredResponse
from agent.edge.core.headers import HeaderList, encode_head
from agent.edge.core.request_head import Refused, RequestHead
from agent.edge.fetcher import Incoming
from agent.edge.request_reader import PAUSE_QUEUE, PAUSE_TUNNEL, RequestReader
from agent.edge.tunnel import Tunnel

if TYPE_CHECKING:
    from agent.edge.listener import Listener

QUEUE_MAX: Final = 16
LINGER_S: Final = 2.0
HALF_CLOSED_S: Final = 5.0
"""A client that has closed its side waits for an answer, or has gone; after so long it is taken for gone."""
DISCARD_BYTES_MAX: Final = 1024 * 1024
log = structlog.get_logger()


class Request:
    """A request on its way through the edge."""

    __slots__ = ("app", "body", "cache_status", "found", "head", "id", "invited", "key", "started_s")

    def __init__(self, head: RequestHead, key: bytes, body: BodyReader | None, request_id: bytes, started_s: float):
        self.head = head
        self.key = key
        self.body = body
        self.id = request_id
        self.started_s = started_s
        self.invited = False
        self.found: cached.Lookup | None = None
        self.cache_status = b""
        self.app = ""

    @property
    def scheme(self) -> bytes:
        """`http` or `https`, as the client has used it."""
        return b"https" if self.key.startswith(b"https:") else b"http"


class ClientConnection(RequestReader):
    """HTTP/1.1 with one client, or with another edge when `peer`."""

    def __init__(self, listener: Listener):
        super().__init__(listener.state, listener.loop, listener.scheme, listener.peer)
        self._listener = listener
        self.address = b""
        self.response_begun = False
        self._transport: asyncio.Transport | None = None
        self._queue: deque[Request | Refused] = deque()
        self._active: Request | None = None
        self._task: asyncio.Task[None] | None = None
        self._tunnel: Tunnel | None = None
        self._rest = b""
        self._writable = True
        self._write_waiter: asyncio.Future[None] | None = None
        self._write_seen = (0, 0.0)
        self._delimited = True
        self._paused = 0
        self._linger_since = 0.0
        self._client_done = False

    @property
    def transport(self) -> asyncio.Transport:
        """The transport of an established connection."""
        assert self._transport is not None
        return self._transport

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peername = transport.get_extra_info("peername")
        self.address = peername[0].encode() if isinstance(peername, tuple) else b"unix"
        self._listener.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.closed(self)
        self._deaf = True
        self._queue.clear()
        self._wake_writer()
        if self._tunnel is not None:
            self._tunnel.client_lost()
        if self._task is not None:
            self._task.cancel()

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
        self._write_seen = (self.transport.get_write_buffer_size(), self._loop.time())
        if self._tunnel is not None:
            self._tunnel.client_full()

    def resume_writing(self) -> None:
        self._writable = True
        self._wake_writer()
        if self._tunnel is not None:
            self._tunnel.client_drained()
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
        if self._active is None and not self._queue and self._writable:
            if head.plain and not state.draining:
                entry = state.store.get(key)
                if entry.__class__ is StoredResponse and self._hit(head, entry):
                    return
            self._start(Request(head, key, body, state.request_id(), self._data_at))
            return
        self._queue.append(Request(head, key, body, state.request_id(), self._data_at))
        if len(self._queue) >= QUEUE_MAX:
            self.pause(PAUSE_QUEUE)

    def _hit(self, head: RequestHead, entry: StoredResponse) -> bool:
        """Sends a fresh entry as it is; False when it must be looked at more closely."""
        state = self._state
        now = state.wall()
        if now >= entry.fresh_until or entry.status != 200 or entry.checked != state.purge_round:
            return False
        rendered = entry.rendered if entry.rendered_second == int(now) else entry.render(now)
        size = len(entry.body)
        if size <= RENDER_BODY_BYTES_MAX:
            self.transport.write(rendered)
        else:
            self.transport.writelines((rendered, entry.body))
        counters = state.counters
        counters.plain_hits += 1
        counters.body_bytes_sent_total += size
        if state.access_log is not None:
            state.access_log.record(self.address, head, 200, size, 0.0, b"locci; hit", b"", "")
        return True

    def refused(self, refusal: Refused) -> None:
        self._queue.append(refusal)
        self._pump()

    def upgraded(self, rest: bytes) -> None:
        self._rest = rest

    def beyond(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._tunnel.from_client(data)
        elif self._active is not None and self._active.head.upgrade:
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
        head = request.head
        self._active = request
        self.response_begun = False
        usual = head.method in (b"GET", b"HEAD") and request.body is None and not head.upgrade
        if usual and head.target.partition(b"?")[0] == responses.HEALTH_PATH:
            self._send_health(request)
            return
        if self._state.table.redirects and self._redirected(request):
            return
        if usual:
            found = cached.look_up(self._state, head, request.key)
            if found.usable and not found.revalidate and found.entry is not None:
                ttl = int(found.entry.ttl_s(self._state.wall()))
                self.send_stored(request, found.entry, cache_status.hit(ttl))
                return
            request.found = found
        self._task = self._loop.create_task(self._serve(request))

    async def _serve(self, request: Request) -> None:
        try:
            await self._listener.exchange.serve(self, request)
        except asyncio.CancelledError:
            raise
        except Exception:  # a fault of ours must not leave the client waiting, nor end the worker
            log.exception("request failed", target=request.head.target.decode("latin-1"))
            if self.response_begun:
                self.break_off()
            else:
                self.send_text(request, Refused(500, "the edge failed; its log says why"), [])
        finally:
            self._task = None
            if self._active is request:
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
        """Someone reads the body now: 100 Continue, when the client waits for it."""
        if request.head.expects_continue and not request.invited and request.body is not None:
            request.invited = True
            if request.body.size == 0:
                self.transport.write(responses.CONTINUE)

    def begin_response(self, request: Request, status: int, *, delimited: bool) -> None:
        """The status is decided. Without `delimited` the end of the connection is the end of the body."""
        self.response_begun = True
        self._delimited = delimited
        self._status = status
        self._state.counters.status(status)

    async def write(self, data: bytes) -> None:
        """Sends, at the client's pace."""
        self.transport.write(data)
        while not self._writable and not self.transport.is_closing():
            self._write_waiter = self._loop.create_future()
            await self._write_waiter

    def end_response(self, request: Request, data: bytes, size: int, *, close: bool) -> None:
        """Sends the last of it."""
        if data:
            self.transport.write(data)
        self._log(request, self._status, size)
        if request.body is not None and not request.body.complete:
            request.body.discard()
        if close:
            self._close(request)
        if self._task is None:
            self._active = None  # a task goes on with the next request itself when it ends

    def send_stored(
        self, request: Request, entry: StoredResponse, member: bytes, own: HeaderList | None = None
    ) -> None:
        """Answers from a whole stored response, with fields that are this client's only."""
        close = self.will_close(request)
        extra = own if member.startswith(b"locci; hit") else [*(own or ()), (b"X-Request-Id", request.id)]
        request.cache_status = member
        status, parts = cached.respond(self._state, request.head, entry, member, close, extra)
        self.begin_response(request, status, delimited=True)
        counters = self._state.counters
        size = len(parts[1]) if len(parts) > 1 else 0
        counters.hits_total += member.startswith(b"locci; hit")
        counters.body_bytes_sent_total += size
        self.transport.writelines(parts)
        self.end_response(request, b"", size, close=close)

    def send_text(self, request: Request, refusal: Refused, extra: HeaderList) -> None:
        """Answers with an explanation."""
        close = refusal.close or self.will_close(request)
        head_only = request.head.method == b"HEAD"
        now = self._state.wall()
        data = responses.text(refusal.status, refusal.text, now, close=close, head_only=head_only, extra=extra)
        self.begin_response(request, refusal.status, delimited=True)
        self.end_response(request, data, len(refusal.text) + 1, close=close)

    def _send_refusal(self, refusal: Refused) -> None:
        member = [(cache_status.NAME, cache_status.forwarded(Forward.BYPASS, detail="refused"))]
        now = self._state.wall()
        self.transport.write(
            responses.text(refusal.status, refusal.text, now, close=True, head_only=False, extra=member)
        )
        self._state.counters.status(refusal.status)
        self._linger()

    def _send_health(self, request: Request) -> None:
        state, close = self._state, self.will_close(request)
        table = state.table
        status = 200 if table.generation and not state.draining else 503
        body = responses.health(table.node, table.region, table.generation)
        head_only = request.head.method == b"HEAD"
        member = [(cache_status.NAME, cache_status.forwarded(Forward.BYPASS))]
        data = responses.whole(status, b"application/json", body, state.wall(), close, head_only, member)
        self.begin_response(request, status, delimited=True)
        self.end_response(request, data, len(body), close=close)

    def _redirected(self, request: Request) -> bool:
        """Sends a plain request to https, when its app wants that (RFC 9110, section 15.4.9); False when not."""
        state, head = self._state, request.head
        route = state.route(head.host)
        if route is None or not route.redirect or self.peer or request.scheme == b"https" or not state.https_port:
            return False
        if head.target.startswith(responses.ACME_PATH):
            return False
        more = [
            (b"Location", responses.https_location(head.host, head.target, state.https_port)),
            (cache_status.NAME, cache_status.forwarded(Forward.BYPASS, detail="redirect")),
            (b"X-Request-Id", request.id),
        ]
        request.app = route.app
        self.send_text(request, Refused(308, "this is served over https", close=False), more)
        return True

    def break_off(self) -> None:
        """The response cannot be finished: the client must not take it for whole (RFC 9112 section 8)."""
        if self._delimited:
            self.transport.close()
        else:
            sock = self.transport.get_extra_info("socket")
            if sock is not None:  # only a reset tells it from the end
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        self._deaf = True

    async def tunnel(self, request: Request, incoming: Incoming, headers: HeaderList) -> None:
        """Passes bytes both ways after a 101, until either side ends."""
        fields = incoming.connection.fields
        more = [(b"Connection", b"Upgrade"), (b"Upgrade", fields.get(b"upgrade", request.head.upgrade))]
        self.begin_response(request, 101, delimited=False)
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

    # ---- the end

    def _close(self, request: Request) -> None:
        self._deaf = True
        self._queue.clear()
        if request.body is None or request.body.complete:
            self.transport.close()
        else:
            self._linger()

    def _linger(self) -> None:
        """Closes so that a client that is still sending gets the response before the reset (RFC 9112 section 9.6)."""
        self._deaf = True
        self._queue.clear()
        self._linger_since = self._loop.time()
        if self._client_done:
            self.transport.close()
        elif self.transport.can_write_eof():
            self.transport.write_eof()

    def sweep(self, now: float) -> None:
        """Ends what takes too long. Called every now and then."""
        if self.transport.is_closing():
            return
        if self._linger_since:
            if now - self._linger_since > LINGER_S:
                self.transport.abort()
            return
        if self._client_done and now - self._data_at > HALF_CLOSED_S:
            self.transport.abort()
            return
        if not self._writable:
            self._sweep_writing(now)
            return
        if why := self.slow(now):
            self._too_slow(Refused(408, why))
        elif (
            self._tunnel is None and self._active is None and now - self._data_at > self._state.settings.idle_timeout_s
        ):
            self.transport.close()

    def _too_slow(self, refusal: Refused) -> None:
        if self._body is not None:
            self._body.fail(refusal)
            self._state.counters.refused_total += 1
            self._deaf = True
        else:
            self.refuse(refusal)

    def _sweep_writing(self, now: float) -> None:
        size = self.transport.get_write_buffer_size()
        if size != self._write_seen[0]:
            self._write_seen = (size, now)
        elif now - self._write_seen[1] > self._state.settings.idle_timeout_s:
            self.transport.abort()

    def drain(self) -> None:
        """The worker stops: an idle connection closes, one in use after its response."""
        if self._active is None and not self._queue and self._between and self._tunnel is None:
            self.transport.close()

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self._active is not None or bool(self._queue)

    def _wake_writer(self) -> None:
        if self._write_waiter is not None and not self._write_waiter.done():
            self._write_waiter.set_result(None)

    def _log(self, request: Request, status: int, size: int) -> None:
        access_log = self._state.access_log
        if access_log is not None:
            took = self._loop.time() - request.started_s
            member = request.cache_status
            access_log.record(self.address, request.head, status, size, took, member, request.id, request.app)
