"""The shortest way for what the cache cannot answer: from a client's bytes to an endpoint's connection and back.

A plain GET that is like one before needs no look at its fields, and a response of the common kind needs no parser: its
head is rewritten in one go and sent in one write with as much of the body as is there. Whatever is not so is handed
to a `Relay` before anything of it was sent, and goes the usual way from there.
"""

from __future__ import annotations

import abc
import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

from agent.edge import cached, quick
from agent.edge.core.balance import Endpoint, pick
from agent.edge.core.cache_status import Forward
from agent.edge.core.entry import StoredResponse
from agent.edge.core.http_rules import NO_HTTP_RULES
from agent.edge.core.request_head import Refused, RequestHead
from agent.edge.core.routing import Candidate, Route, Table
from agent.edge.recall import NOTHING, Recall
from agent.edge.relay import Relay
from agent.edge.request_reader import RequestReader
from agent.edge.responder import Request, Responder
from agent.edge.responses import is_ours

if TYPE_CHECKING:
    import random

    from agent.edge.listener import Listener
    from agent.edge.pool import Pool
    from agent.edge.upstream import UpstreamConnection


class Way:
    """What requests with one head of one client have in common under one table."""

    __slots__ = (
        "app",
        "cached",
        "candidate",
        "endpoints",
        "head",
        "kept",
        "member",
        "pool",
        "prefix",
        "request",
        "route",
        "several",
        "table",
        "traced",
        "why",
    )

    def __init__(self, head: RequestHead, table: Table):
        self.head = head
        self.table = table
        self.route: Route | None = None
        """None when they have to go another way."""
        self.app = ""
        self.request: Request | None = None
        """What they look like at first, but for key, id and time."""
        self.cached = False
        """Only while responses are known not to be stored."""
        self.candidate: Candidate | None = None
        """The only one; None when one of `several` has to be chosen."""
        self.several: tuple[Candidate, ...] = ()
        self.endpoints: tuple[Endpoint, ...] = ()
        """Theirs."""
        self.kept: dict[str, list[UpstreamConnection]] = {}
        """Connections of the pool, by address."""
        self.pool: Pool | None = None
        self.why = Forward.BYPASS
        self.member = b""
        self.prefix = b""
        """The head for the endpoint, but for ids."""
        self.traced = False
        """The client has a trace of its own."""

    def choose(self, now: float, rng: random.Random) -> Candidate | None:
        """One of several candidates; None while one of them is in trouble."""
        for endpoint in self.endpoints:
            if endpoint.ejections:
                return None
        return self.several[pick(self.endpoints, now, rng.random())]

    def keep(self, connection: UpstreamConnection) -> None:
        """Gives a connection that is ready for the next request back."""
        assert self.pool is not None
        self.pool.keep(connection)


def with_ids(prefix: bytes, request_id: bytes, trace: bytes) -> bytes:
    """A head for an endpoint; with a trace that begins here unless that is empty."""
    if not trace:
        return b"%bX-Request-Id: %b\r\n\r\n" % (prefix, request_id)
    return b"%bX-Request-Id: %b\r\ntraceparent: %b\r\n\r\n" % (prefix, request_id, trace)


class Waiting(Protocol):
    """Who is at work for the client's request without a task."""

    def client_full(self) -> None:
        """The client does not take more for now."""
        ...

    def client_drained(self) -> None:
        """It does again."""
        ...

    def abandon(self) -> None:
        """The client has gone."""
        ...


class Express(RequestReader, Responder):
    """The part of a client's connection that sends requests this way. One at a time."""

    __slots__ = (
        "_active",
        "_candidate",
        "_endpoint_connection",
        "_listener",
        "_queue",
        "_relay",
        "_sent_at",
        "_transport",
        "_way",
        "_writable",
        "address",
        "forwarded",
        "response_begun",
    )

    def __init__(self, listener: Listener, address: bytes):
        super().__init__(listener.state, listener.loop, listener.scheme, listener.peer)
        self._listener = listener
        self.address = address
        self._transport: asyncio.Transport | None = None
        self._queue: deque[Request | Refused] = deque()
        self._active: Request | None = None
        self._relay: Waiting | None = None
        self._writable = True
        self._way: Way | None = None
        self._endpoint_connection: UpstreamConnection | None = None
        self._candidate: Candidate
        self._sent_at = 0.0
        self.response_begun = False
        self.forwarded: tuple[object, bytes, bool] | None = None
        """What was alike in the last request that was passed on without a task; what followed its request line on the
        way to the endpoint; whether it had a trace."""

    def _sent_on(self, head: RequestHead, key: bytes) -> bool:
        """Sends a plain GET on at once; False when it has to go another way."""
        listener, state, way = self._listener, self._state, self._way
        if way is None or way.head is not head or way.table is not state.table:
            route = state.table.find(head.host)
            if route is not None and route.cache and not state.is_uncacheable(key):
                return self._recalled(head, key, route)
            self._way = way = listener.exchange.way(self, head)
        if way.route is None:
            return False
        if way.cached and not state.is_uncacheable(key):
            return self._recalled(head, key, way.route)
        now = self._loop.time()
        candidate = way.candidate or way.choose(now, state.rng)
        if candidate is None or candidate.endpoint.ejections:
            return False
        idle = way.kept.get(candidate.endpoint.address)
        while idle:
            connection = idle.pop()
            if connection.ready(now):
                break
            connection.close()
        else:
            return False
        candidate.endpoint.outstanding += 1
        self._active = request = Request(head, key, None, state.request_id(), now)
        self._relay = self
        self.response_begun = False
        self._candidate, self._endpoint_connection, self._sent_at = candidate, connection, now
        data = with_ids(way.prefix, request.id, b"" if way.traced else state.trace())
        connection.begin_quick(data, self, now, state.upstream_timeout_s)
        return True

    def _recalled(self, head: RequestHead, key: bytes, route: Route) -> bool:
        """Asks the second tier for what a plain GET wants; False when that is no use, or not enough."""
        state = self._state
        tier = state.tier
        if tier is None or self.peer or key in state.fills or b"cdn-loop" in head.fields or is_ours(head.target):
            return False
        if route.http is not NO_HTTP_RULES or (route.redirect and self.scheme == b"http"):
            return False
        request = Request(head, key, None, state.request_id(), self._data_at)
        request.app, request.found = route.app, NOTHING
        asked = Recall(self._listener.exchange, state, self, request)
        if not tier.ask(key, head.fields, asked.answered):
            return False
        self._active, self._relay = request, asked
        self.response_begun = False
        return True

    # ---- what else the connection does

    @abc.abstractmethod
    def keeps_on(self, request: Request) -> bool:
        """Whether the connection goes on after the response, and the app has no wishes for it."""

    @abc.abstractmethod
    def send_whole(self, request: Request, entry: StoredResponse, now: float) -> None:
        """Answers a plain GET with a whole 200 of the second tier, as it is."""

    @abc.abstractmethod
    def put(self, data: bytes) -> bool:
        """Sends some of the body; False when the client must not be sent more for now."""

    @abc.abstractmethod
    def relayed(self, request: Request, *, again: bool = False) -> None:
        """The request is answered; with `again` it is not, and starts anew, with patience."""

    @abc.abstractmethod
    def head_sent(self, status: int) -> None:
        """A response of known length has begun past `begin_response`."""

    @abc.abstractmethod
    def gone_on(self) -> None:
        """A whole response went past `begin_response` and `end_response`: the next request may start."""

    # ---- the endpoint answers

    def first(self, data: bytes) -> bool:
        """The first bytes of the response. True when they were seen to; otherwise the usual way begins with them."""
        way, request, connection, transport = self._way, self._active, self._endpoint_connection, self._transport
        state, rewritten = self._state, quick.rewritten
        assert way is not None
        assert request is not None
        assert connection is not None
        assert transport is not None
        made = None
        if rewritten is not None and not self._deaf and not state.draining and not transport.is_closing():
            made = rewritten(data, way.member, request.id, state.date())
        if made is None:
            self._usual_way()
            return False
        out, status, length, size = made
        took_s = (now := self._loop.time()) - self._sent_at
        endpoint = self._candidate.endpoint
        endpoint.answered(status, now, took_s)
        counters = state.counters
        if size < length:
            counters.status(status)
            relay = self._usual_way()
            connection.head_taken(status, length, size)
            self.head_sent(status)
            relay.begun(length, size)
            transport.write(out)
            return True
        if status == 200:
            counters.plain_passes += 1
        else:
            counters.misses_total += 1
            counters.status(status)
        counters.body_bytes_sent_total += size
        self._active = self._relay = self._endpoint_connection = None
        endpoint.outstanding -= 1
        connection.rest(now)
        self._listener.exchange.pool.keep(connection)
        if state.access_log is not None:
            state.access_log.record(self.address, way.head, status, size, took_s, way.member, request.id, way.app)
        transport.write(out)
        if self._queue:
            self.gone_on()
        return True

    def progress(self) -> None:
        """The endpoint has failed before it answered."""
        self._usual_way().progress()

    def _usual_way(self) -> Relay:
        way, request, connection = self._way, self._active, self._endpoint_connection
        assert way is not None
        assert way.route is not None
        assert request is not None
        assert connection is not None
        request.app, request.http = way.route.app, way.route.http
        request.cache_status = way.member
        request.found = cached.Lookup(None, False, False, way.why)
        self._endpoint_connection = None
        self._state.counters.misses_total += 1
        connection.parse()
        exchange = self._listener.exchange
        self._relay = relay = Relay(exchange, self, request, self._candidate, connection, self._sent_at)
        return relay

    # ---- the client

    def client_full(self) -> None:
        self._usual_way().client_full()

    def client_drained(self) -> None:
        """Nothing was held back."""

    def abandon(self) -> None:
        self._usual_way().abandon()
