"""What answering a request has in common, whichever version of HTTP the client speaks."""

from __future__ import annotations

import abc
import asyncio
import math
from typing import TYPE_CHECKING, Final

import structlog

from agent.edge import cached, responses
from agent.edge.body import BodyReader
from agent.edge.core import cache_status
from agent.edge.core.cache_status import Forward
from agent.edge.core.entry import StoredResponse
from agent.edge.core.headers import HeaderList
from agent.edge.core.http_rules import NO_HTTP_RULES, Maintenance, filled, wants_html
from agent.edge.core.request_head import Refused, RequestHead
from agent.edge.fetcher import Incoming
from agent.edge.responses import Answer
from agent.edge.state import EdgeState

if TYPE_CHECKING:
    from agent.edge.exchange import Exchange

log = structlog.get_logger()
_WITH_PAGES: Final = frozenset((b"retry-after", b"www-authenticate", b"set-cookie", b"allow"))
"""What of an app's own answer goes with the page that takes its place."""


class Request:
    """A request on its way through the edge."""

    __slots__ = (
        "app",
        "body",
        "cache_status",
        "found",
        "head",
        "http",
        "id",
        "invited",
        "key",
        "recalled",
        "started_s",
        "wait_s",
    )

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
        self.recalled = False
        """The second tier was asked already."""
        self.http = NO_HTTP_RULES
        """Of its app, once that is known."""
        self.wait_s = 0.0
        """When to come again, because there were too many requests; 0 when there were not."""

    @property
    def scheme(self) -> bytes:
        """`http` or `https`, as the client has used it."""
        return b"https" if self.key.startswith(b"https:") else b"http"

    @property
    def bodiless(self) -> bool:
        """No response to it has a body, whatever its fields say (RFC 9110 section 9.3.2)."""
        return self.head.method == b"HEAD"


class Responder(abc.ABC):
    """Takes the answer to one request at a time. A response is either whole (`send`), or begun, put and ended."""

    __slots__ = ()

    _state: EdgeState
    peer: bool
    """The client is another edge."""
    address: bytes
    response_begun: bool

    # ---- what the version of HTTP decides

    @abc.abstractmethod
    def send(self, request: Request, answer: Answer, *, close: bool = False) -> None:
        """Sends a whole response and ends it; with `close` nothing more is heard from the client."""

    @abc.abstractmethod
    def begin_response(
        self, request: Request, status: int, reason: bytes, headers: HeaderList, length: int | None
    ) -> None:
        """The status is decided. What it needs in front of the body goes out with the first of it, or by `flush`."""

    @abc.abstractmethod
    def flush(self) -> None:
        """Sends what waits for the body."""

    @abc.abstractmethod
    async def write(self, data: bytes) -> None:
        """Sends some of the body, at the client's pace."""

    @abc.abstractmethod
    def end_response(self, request: Request, size: int, trailing: HeaderList) -> None:
        """The body, of `size` bytes, is whole. Trailers go to a client that has said that it takes them."""

    @abc.abstractmethod
    def break_off(self) -> None:
        """The response cannot be finished: the client must not take it for whole."""

    @abc.abstractmethod
    def invite_body(self, request: Request) -> None:
        """Someone reads the body now: 100 Continue, when the client waits for it."""

    @abc.abstractmethod
    def send_early(self, request: Request, status: int, headers: HeaderList) -> None:
        """Sends an interim response (RFC 9110 section 15.2), unless the client cannot understand it or has gone."""

    @abc.abstractmethod
    async def tunnel(self, request: Request, incoming: Incoming, headers: HeaderList) -> None:
        """Passes bytes both ways after a 101, until either side ends."""

    # ---- the same for all

    def answer_at_once(self, request: Request, exchange: Exchange) -> bool:
        """Answers what needs nobody else; False when someone else must be asked, `exchange` as a rule."""
        head = request.head
        usual = head.method in (b"GET", b"HEAD") and request.body is None and not head.upgrade
        if usual and head.target.partition(b"?")[0] == responses.HEALTH_PATH:
            self._send_health(request)
            return True
        if usual and head.target.startswith(responses.ACME_PATH) and self._proven(request):
            return True
        if request.wait_s:
            self._send_limited(request, exchange)
            return True
        if self._state.table.guards and self._guarded(request):
            return True
        if usual:
            found = cached.look_up(self._state, head, request.key)
            if found.usable and not found.revalidate and found.entry is not None:
                exchange.name(request)
                self.send_stored(request, found.entry, cache_status.hit(int(found.entry.ttl_s(self._state.wall()))))
                return True
            request.found = found
        return False

    async def serve(self, request: Request, exchange: Exchange) -> None:
        """Answers what takes time. Raises only CancelledError."""
        try:
            await exchange.serve(self, request)
        except asyncio.CancelledError:
            raise
        except Exception:  # a fault of ours must not leave the client waiting, nor end the worker
            log.exception("request failed", target=request.head.target.decode("latin-1"))
            if self.response_begun:
                self.break_off()
            else:
                self.send_text(request, Refused(500, "the edge failed; its log says why"), [])

    def send_stored(
        self, request: Request, entry: StoredResponse, member: bytes, own: HeaderList | None = None
    ) -> None:
        """Answers from a whole stored response, with fields that are this client's only."""
        extra = [*(own or ()), (b"X-Request-Id", request.id)]
        request.cache_status = member
        if not request.app:
            self._know(request)
        http, edits = request.http, None
        if http is not NO_HTTP_RULES and not self.peer:
            if entry.status in http.replaced and self.paged(request, entry.status, entry.reason, entry.headers):
                return
            edits = http.response
        answer = cached.respond(self._state, request.head, entry, member, extra, edits)
        counters = self._state.counters
        counters.hits_total += member.startswith(b"locci; hit")
        counters.body_bytes_sent_total += len(answer.body)
        self.send(request, answer)

    def send_text(self, request: Request, refusal: Refused, extra: HeaderList) -> None:
        """Answers with an explanation."""
        page, now = request.http.pages.get(refusal.status), self._state.wall()
        if page is not None and not self.peer and wants_html(request.head.fields):
            answer = responses.page(refusal.status, filled(page, refusal.status, refusal.text, request.id), now, extra)
        else:
            answer = responses.explained(refusal.status, refusal.text, now, extra)
        self.send(request, answer, close=refusal.close)

    def paged(self, request: Request, status: int, reason: bytes, headers: HeaderList) -> bool:
        """Sends the app's page in the place of its own answer; False when the client is to have that."""
        if self.peer or not wants_html(request.head.fields):
            return False
        text = (responses.reason_of(status) or reason).decode("latin-1")
        more = [
            *(pair for pair in headers if pair[0].lower() in _WITH_PAGES),
            (cache_status.NAME, request.cache_status),
            (b"X-Request-Id", request.id),
        ]
        page = filled(request.http.pages[status], status, text, request.id)
        self.send(request, responses.page(status, page, self._state.wall(), more))
        return True

    def _know(self, request: Request) -> bool:
        """Looks up whose the request is; False when it is nobody's."""
        route = self._state.route(request.head.host)
        if route is not None:
            request.app, request.http = route.app, route.http
        return route is not None

    def _send_health(self, request: Request) -> None:
        state = self._state
        table = state.table
        status = 200 if table.generation and (state.retiring or not state.draining) else 503
        body = responses.health(table.node, table.region, table.generation)
        member = [
            (cache_status.NAME, cache_status.forwarded(Forward.BYPASS)),
            (b"X-Request-Id", request.id),
        ]
        self.send(request, responses.whole(status, b"application/json", body, state.wall(), member))

    def _proven(self, request: Request) -> bool:
        """Answers a certificate authority; False when it is the app that it asks, which may prove itself."""
        route = self._state.route(request.head.host)
        answer = route.proofs.get(request.head.target[len(responses.ACME_PATH) :]) if route is not None else None
        if route is None or answer is None:
            return False
        request.app = route.app
        request.cache_status = cache_status.forwarded(Forward.BYPASS, detail="proof")
        member = [(cache_status.NAME, request.cache_status), (b"X-Request-Id", request.id)]
        self.send(request, responses.whole(200, b"application/octet-stream", answer, self._state.wall(), member))
        return True

    def _send_limited(self, request: Request, exchange: Exchange) -> None:
        """RFC 6585 section 4."""
        exchange.name(request)
        self._know(request)
        request.cache_status = cache_status.forwarded(Forward.BYPASS, detail="rate")
        more = [
            (b"Retry-After", b"%d" % math.ceil(request.wait_s)),
            (cache_status.NAME, request.cache_status),
            (b"X-Request-Id", request.id),
        ]
        self.send_text(request, Refused(429, "too many requests; come again later", close=False), more)

    def _guarded(self, request: Request) -> bool:
        """Answers what an app's rules answer by themselves: redirects and maintenance; False when they do not."""
        head = request.head
        route = self._state.route(head.host)
        if route is None or self.peer or head.target.startswith(responses.ACME_PATH):
            return False
        request.app, request.http = route.app, route.http
        if route.redirect and request.scheme != b"https" and self._state.https_port:  # RFC 9110, section 15.4.9
            location = responses.https_location(head.host, head.target, self._state.https_port)
            self._send_elsewhere(request, 308, location, "this is served over https")
            return True
        maintenance = route.http.maintenance
        if maintenance is not None and not maintenance.lets(self.address):
            self._send_maintenance(request, maintenance)
            return True
        found = route.http.redirect(head.host, head.target)
        if found is not None:
            self._send_elsewhere(request, *found, "this is somewhere else")
        return found is not None

    def _send_elsewhere(self, request: Request, status: int, location: bytes, why: str) -> None:
        request.cache_status = cache_status.forwarded(Forward.BYPASS, detail="redirect")
        more = [
            (b"Location", location),
            (cache_status.NAME, request.cache_status),
            (b"X-Request-Id", request.id),
        ]
        self.send_text(request, Refused(status, why, close=False), more)

    def _send_maintenance(self, request: Request, maintenance: Maintenance) -> None:
        """RFC 9110, section 15.6.4."""
        request.cache_status = cache_status.forwarded(Forward.BYPASS, detail="maintenance")
        more = [
            (b"Retry-After", b"%d" % maintenance.retry_after_s),
            (cache_status.NAME, request.cache_status),
            (b"X-Request-Id", request.id),
        ]
        text = f"{request.app} is in maintenance; come again later"
        if maintenance.page and wants_html(request.head.fields):
            page = filled(maintenance.page, 503, text, request.id)
            self.send(request, responses.page(503, page, self._state.wall(), more))
        else:
            self.send_text(request, Refused(503, text, close=False), more)
