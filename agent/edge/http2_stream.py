"""One request of an HTTP/2 connection, and the answer to it (RFC 9113 sections 5 and 8)."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from agent.edge import responses
from agent.edge.body import BUFFER_HIGH_BYTES, BodyReader
from agent.edge.core import cache_status, trailers
from agent.edge.core.cache_status import Forward
from agent.edge.core.headers import HeaderList
from agent.edge.core.http2_frames import ErrorCode
from agent.edge.core.http2_request import FORBIDDEN
from agent.edge.core.request_head import Refused
from agent.edge.fetcher import Incoming
from agent.edge.large import PIECE_BYTES
from agent.edge.responder import Request, Responder
from agent.edge.responses import Answer

if TYPE_CHECKING:
    from agent.edge.http2 import Http2Connection

PRIORITY: Final = b"priority"


class Stream(Responder):
    """Answers go out as the client's windows allow."""

    def __init__(self, connection: Http2Connection, number: int):
        self._connection = connection
        self._state = connection.state
        self.number = number
        self.peer = False
        self.address = connection.address
        self.response_begun = False
        self.closed = False
        self.heard_all = True
        """The request has come to its end."""
        self.body: BodyReader | None = None
        self.task: asyncio.Task[None] | None = None
        self.moved_at = connection.now()
        self.rate: tuple[float, int] | None = None
        self._come = (self.moved_at, 0)
        self.body_bytes_max = 0
        self._owed = 0
        self._out: deque[bytes | memoryview] = deque()
        self._out_bytes = 0
        self._last = False
        self._emitted = 0
        self._took = (0.0, 0)
        """Since when, and at how many bytes, the present window of its reading is measured."""
        self._out_since = 0.0
        """Since when there is always something that waits for the client."""
        self._status = 0
        self._lent: tuple[int, bytes | memoryview] | None = None
        self._after: HeaderList = []
        """Trailers, for the last frame."""
        self._waiter: asyncio.Future[None] | None = None
        self._pending: HeaderList | None = None

    # ---- the request's body

    def open_body(self) -> BodyReader:
        """A body follows."""
        self.body = BodyReader(lambda: None, self._credit)
        return self.body

    def fed(self, data: bytes, cost: int) -> None:
        """Bytes of the body came; the client may send as many again once someone has read them."""
        self._owed += cost
        body, most = self.body, self.body_bytes_max
        if body is not None:
            body.feed(data)
            if body.size > most and not body.discarding:
                body.fail(Refused(413, f"the body is larger than {most} bytes", close=False))
                body.discard()
                self._state.counters.refused_total += 1
        if body is None or not body.paused:
            self._credit()

    def heard(self) -> None:
        """The request is whole."""
        self.heard_all = True
        if self.body is not None:
            self.body.end()

    def _credit(self) -> None:
        owed, self._owed = self._owed, 0
        if owed:
            self._connection.credit(self.number, owed)

    # ---- the answer

    def send(self, request: Request, answer: Answer, *, close: bool = False) -> None:
        body: bytes | memoryview = b"" if request.bodiless else answer.body
        self.whole(answer, body)
        self._log(request, answer.status, len(body))

    def whole(self, answer: Answer, body: bytes | memoryview) -> None:
        """Sends a whole response, whatever becomes of the request's body."""
        self._state.counters.status(answer.status)
        self._fields(answer.status, answer.headers, end=not body)
        if body:
            if len(body) > PIECE_BYTES:
                self._lent = (self._state.loans.take(body), body)
            self._put(body)
            self._last = True
        self._connection.push(self)

    def refuse(self, refusal: Refused) -> None:
        """Answers what is not served; what is malformed is not answered to the end, for its stream is reset."""
        more = [
            (cache_status.NAME, cache_status.forwarded(Forward.BYPASS, detail="refused")),
            (b"X-Request-Id", self._state.request_id()),
        ]
        self._state.counters.refused_total += 1
        answer = responses.explained(refusal.status, refusal.text, self._state.wall(), more)
        if refusal.status != 400:
            self.whole(answer, answer.body)
            return
        self._state.counters.status(400)
        self._fields(400, answer.headers, end=False)
        if len(answer.body) <= self._connection.room(self.number):
            self._connection.send_data(self.number, answer.body, end=False)

    def begin_response(
        self, request: Request, status: int, reason: bytes, headers: HeaderList, length: int | None
    ) -> None:
        """Framed by the stream itself; a length that is known is said."""
        self.response_begun = True
        self._status = status
        self._state.counters.status(status)
        framing = [(b"content-length", b"%d" % length)] if length is not None and status != 204 else []
        self._pending = headers + framing

    def flush(self) -> None:
        if self._begin(end=False):
            self._connection.push(self)

    def _begin(self, *, end: bool) -> bool:
        pending, self._pending = self._pending, None
        if pending is not None:
            self._fields(self._status, pending, end=end)
        return pending is not None

    def _fields(self, status: int, headers: HeaderList, *, end: bool) -> None:
        self.response_begun = True
        if not self.closed:
            fields = [(b":status", b"%d" % status), *(pair for pair in headers if pair[0].lower() not in FORBIDDEN)]
            if not end:
                for name, value in headers:
                    if len(name) == len(PRIORITY) and name.lower() == PRIORITY:
                        self._connection.wanted(self.number, value)
            self._connection.send_fields(self.number, fields, end=end)
            self.closed = end

    async def write(self, data: bytes) -> None:
        self._begin(end=False)
        self._put(data)
        self._connection.push(self)
        while self._out_bytes > BUFFER_HIGH_BYTES and not self.closed:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def _put(self, data: bytes | memoryview) -> None:
        if not self.closed:
            if not self._out:
                self.moved_at = self._out_since = self._connection.now()
            self._out.append(data)
            self._out_bytes += len(data)

    def end_response(self, request: Request, size: int, trailing: HeaderList) -> None:
        if trailing and trailers.wanted(request.head.fields):
            self._after = [(name.lower(), value) for name, value in trailers.passed_on(trailing)]
            self._begin(end=False)
        if self._pending is not None:
            self._begin(end=True)
        else:
            self._last = True
        self._log(request, self._status, size)
        self._connection.push(self)

    def break_off(self) -> None:
        """A reset: no client takes the response for whole (RFC 9113 section 8.1.1)."""
        if not self.closed:
            self.abandon()
            self._connection.reset(self.number, ErrorCode.INTERNAL_ERROR)

    def invite_body(self, request: Request) -> None:
        if request.head.expects_continue and not request.invited and request.body is not None and not self.closed:
            request.invited = True
            if request.body.size == 0:
                self._connection.send_fields(self.number, [(b":status", b"100")], end=False)
                self._connection.push(self)

    def send_early(self, request: Request, status: int, headers: HeaderList) -> None:
        if not self.closed and not self.response_begun:
            fields = [(b":status", b"%d" % status), *(pair for pair in headers if pair[0].lower() not in FORBIDDEN)]
            self._connection.send_fields(self.number, fields, end=False)
            self._connection.push(self)

    async def tunnel(self, request: Request, incoming: Incoming, headers: HeaderList) -> None:
        """Nobody can ask for one: HTTP/2 has no Upgrade (RFC 9113 section 8.6)."""
        raise Refused(502, "an upgrade that nobody asked for", close=False)

    # ---- on the wire

    @property
    def waits_to_send(self) -> bool:
        """Whether there is something that a window or the connection holds back."""
        return not self.closed and (bool(self._out) or self._last)

    def emit(self) -> bool:
        """Sends one frame; False when the windows do not allow any."""
        if not self._out:
            if self._after:
                self._connection.send_fields(self.number, self._after, end=True)
            else:
                self._connection.send_data(self.number, b"", end=True)
            self.closed = True
            return True
        size = self._connection.room(self.number)
        if size <= 0:
            return False
        data = self._out[0]
        if len(data) <= size:
            self._out.popleft()
        else:
            self._out[0] = memoryview(data)[size:]
            data = memoryview(data)[:size]
        self._out_bytes -= len(data)
        self._emitted += len(data)
        self.moved_at = self._connection.now()
        end = self._last and not self._out and not self._after
        self._connection.send_data(self.number, data, end=end)
        self.closed = end
        if end:
            self._give_back()
        if self._out_bytes <= BUFFER_HIGH_BYTES:
            self._wake()
        return True

    def _give_back(self) -> None:
        lent, self._lent = self._lent, None
        if lent is not None:
            self._state.loans.back(*lent)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def abandon(self) -> None:
        """Nobody wants the answer, or it cannot be given."""
        self.closed = True
        self._give_back()
        self._out.clear()
        self._out_bytes = 0
        self._pending = None
        self._wake()
        if self.body is not None:
            self.body.discard()
            self.body.release()
        task = self.task
        if task is not None and task is not asyncio.current_task():
            self.task = None  # one that has not begun would never say that it is over
            task.cancel()

    def _taken_too_slowly(self, now: float) -> bool:
        """Whether the client opens its windows for nothing, or for less than it must take."""
        settings, (since, before) = self._state.settings, self._took
        if now - self.moved_at > settings.idle_timeout_s:
            return True
        if not since or self._out_since > since:
            self._took = (now, self._emitted)
        elif now - since >= settings.body_rate_window_s:
            self._took = (now, self._emitted)
            return (self._emitted - before) / (now - since) < settings.answer_rate_min
        return False

    def sweep(self, now: float) -> None:
        """Ends what takes too long. Called every now and then."""
        settings = self._state.settings
        if self.waits_to_send and self._out and self._taken_too_slowly(now):
            self._state.counters.refused_total += 1
            self.abandon()
            self._connection.reset(self.number, ErrorCode.CANCEL)
            return
        body = self.body
        if body is None or body.complete or body.paused or body.discarding:
            self.rate = None
            return
        why, size = "", body.size + self._connection.coming(self.number)
        if size != self._come[1]:
            self._come = (now, size)
        if now - self._come[0] > settings.idle_timeout_s:
            why = f"nothing of the body came for {settings.idle_timeout_s:g} s"
        elif self.rate is None:
            self.rate = (now, size)
        elif now - self.rate[0] >= settings.body_rate_window_s:
            if (size - self.rate[1]) / (now - self.rate[0]) < settings.body_rate_min:
                why = f"the body comes with less than {settings.body_rate_min} bytes per second"
            self.rate = (now, size)
        if why:
            self._state.counters.refused_total += 1
            body.fail(Refused(408, why, close=False))

    def _log(self, request: Request, status: int, size: int) -> None:
        access_log = self._state.access_log
        if access_log is not None:
            took, member = self._connection.now() - request.started_s, request.cache_status
            access_log.record(self.address, request.head, status, size, took, member, request.id, request.app)
