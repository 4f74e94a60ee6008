"""Gets a response for a request from the first endpoint that can give one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from agent.edge.body import ReplayBody
from agent.edge.core import affinity, trailers
from agent.edge.core import headers as fields_rules
from agent.edge.core.headers import Fields, HeaderList, Origin, encode_head
from agent.edge.core.http_rules import NO_HTTP_RULES, HttpRules
from agent.edge.core.request_head import METHODS_IDEMPOTENT, METHODS_SAFE, Refused, RequestHead, switches
from agent.edge.core.retry_budget import RetryBudget
from agent.edge.core.routing import Candidate, Route, candidates, may_retry, shielding
from agent.edge.pool import Pool
from agent.edge.state import EdgeState
from agent.edge.upstream import Early, UpstreamConnection, UpstreamError

HOP = b"locci-hop"
SHIELD: Final = b"shield"
"""Value of Locci-Hop by which an edge above is asked."""
HSTS = b"strict-transport-security"
RETRY_AFTER_S = 1
DISCARD_BYTES_MAX: Final = 64 * 1024
HEDGES_SHARE: Final = 0.1
"""Of the requests that may be asked for twice, so many are, at most."""
HEDGES_MAX: Final = 10.0
"""At once, after a quiet time."""


@dataclass(slots=True)
class Outgoing:
    """A request as it goes to whichever endpoint is tried."""

    method: bytes
    target: bytes
    headers: HeaderList
    body: ReplayBody | None
    content_length: int | None
    """None with a body: chunked."""
    local_only: bool
    upgrade: bytes = b""
    secure: bool = False
    """The client came over TLS."""
    fields: Fields = field(default_factory=dict)
    """The client's, as it sent them."""
    client: bytes = b""
    http: HttpRules = NO_HTTP_RULES
    host: bytes = b""
    sequence: int = 0
    """The newest order to purge known here: an edge that does not know it must not use what it has stored."""
    shield_key: bytes = b""
    """What may be stored is asked of the edges above first; this chooses among them."""
    early: Early | None = None
    """Who passes interim responses on."""

    def encode(self, to_peer: bool, shields: bool = False) -> bytes:
        """The head for one endpoint."""
        extra: HeaderList = []
        if self.body is not None:
            chunked = self.content_length is None
            length = b"%d" % (self.content_length or 0)
            extra.append((b"Transfer-Encoding", b"chunked") if chunked else (b"Content-Length", length))
            if chunked and b"trailer" in self.fields and (names := trailers.announced_to_app(self.fields)):
                extra.append((b"Trailer", names))
        elif self.method in (b"POST", b"PUT", b"PATCH"):
            extra.append((b"Content-Length", b"0"))
        if self.upgrade:
            extra += [(b"Connection", b"Upgrade"), (b"Upgrade", self.upgrade)]
        elif b"te" in self.fields and trailers.wanted(self.fields):
            extra += [(b"Connection", b"TE"), (b"TE", b"trailers")]
        if to_peer:
            extra.append((b"Locci-Hop", SHIELD if shields else b"1"))
            if self.sequence:
                extra.append((b"Locci-Purge", b"%d" % self.sequence))
        target, headers, http = self.target, self.headers, self.http
        if http is not NO_HTTP_RULES and not to_peer:
            target = http.rewritten(self.host, target)
            headers = headers if http.request is None else http.request.apply(headers)
        return encode_head(self.method + b" " + target + b" HTTP/1.1", headers + extra)


def outgoing(
    head: RequestHead,
    origin: Origin,
    body: ReplayBody | None,
    *,
    drop: frozenset[bytes] = frozenset(),
    http: HttpRules = NO_HTTP_RULES,
) -> Outgoing:
    """The request that follows from a client's; fields named in `drop` stay behind. Replicas get it by `http`."""
    passed = fields_rules.to_upstream(head.headers, head.fields, origin, head.minor)
    if drop:
        passed = [pair for pair in passed if pair[0].lower() not in drop]
    length = None if head.chunked else head.content_length
    upgrade = head.upgrade if switches(head.upgrade) else b""
    secure, client = origin.scheme == b"https", origin.client
    return Outgoing(
        head.method,
        head.target,
        passed,
        body,
        length,
        origin.trusted and not origin.shielded,
        upgrade,
        secure,
        head.fields,
        client,
        http,
        head.host,
    )


class Incoming:
    """A response whose head is there. Must be ended by `done` or `abandon`, whatever happens."""

    __slots__ = ("_ended", "_fetcher", "_pump", "candidate", "connection", "request_time", "response_time", "stay")

    def __init__(
        self,
        fetcher: Fetcher,
        candidate: Candidate,
        connection: UpstreamConnection,
        pump: asyncio.Task[None] | None,
        request_time: float,
        response_time: float,
    ):
        self._fetcher = fetcher
        self._pump = pump
        self._ended = False
        self.candidate = candidate
        self.connection = connection
        self.request_time = request_time
        self.response_time = response_time
        self.stay = b""
        """The cookie by which the client comes back, for what goes to this client alone; empty for none."""

    async def done(self) -> None:
        """The body was read to its end."""
        if self._pump is not None and not self._pump.done():
            await self.abandon()  # an answer before the whole request: the connection cannot be used again
        elif not self._ended:
            self._ended = True
            self._fetcher.end(self.candidate, self.connection)

    async def discard(self) -> None:
        """Nobody wants the body; the connection is kept when that is short."""
        length = self.connection.fields.get(b"content-length", b"")
        if not self.connection.complete and (not length.isdigit() or int(length[:18]) > DISCARD_BYTES_MAX):
            await self.abandon()
            return
        while await self.connection.read():
            pass
        await self.done()

    async def abandon(self) -> None:
        """Nobody wants the rest. Nothing happens when it has ended already."""
        if self._ended:
            return
        self._ended = True
        self.connection.close()
        self._fetcher.end(self.candidate, self.connection)
        await _stop(self._pump)


async def _stop(pump: asyncio.Task[None] | None) -> None:
    if pump is not None:
        pump.cancel()
        with contextlib.suppress(asyncio.CancelledError, UpstreamError, Refused):
            await pump


class Fetcher:
    """Tries endpoint after endpoint."""

    def __init__(self, state: EdgeState, pool: Pool):
        self._state = state
        self.pool = pool
        self._retries = RetryBudget()
        self._hedges = HEDGES_MAX
        """How many requests may be asked for twice now."""

    def ready(self, route: Route) -> tuple[Candidate, UpstreamConnection] | None:
        """The local replica that is best now, with a connection that is ready for a request that may be repeated.

        It is counted as begun; `end` must follow.
        """
        state = self._state
        now = state.clock.monotonic()
        if not route.balancing.plain:
            return None
        if len(route.local) == 1:
            local = route.local[0]
            endpoint = state.endpoints.get(local.address)
            if endpoint is None or local.draining or not endpoint.available(now):
                return None
            candidate = Candidate(endpoint, local, None)
        else:
            tries = candidates(route, state.endpoints, now, state.rng.random(), local_only=True)
            if not tries or not tries[0].endpoint.available(now):
                return None
            candidate = tries[0]
        connection = self.pool.take(candidate.endpoint.address, now)
        if connection is not None:
            candidate.endpoint.begin(now)
        return None if connection is None else (candidate, connection)

    async def fetch(self, route: Route, request: Outgoing) -> Incoming:
        """The response of the first endpoint that gives one.

        Raises Refused: 503 when no endpoint could be reached, 502 when one broke off, 504 when one was too slow.
        """
        state = self._state
        request.sequence = route.purges.sequence
        now = state.clock.monotonic()
        wish = affinity.NO_WISH
        if not route.balancing.plain:
            wish = affinity.wish(route.balancing, request.fields, request.target, request.client)
        local_only = request.local_only
        tries = candidates(route, state.endpoints, now, state.rng.random(), local_only=local_only, wish=wish)
        if request.shield_key and route.shield:
            tries = [*shielding(route, state.endpoints, now, request.shield_key), *tries]
        self._retries.earn()
        last: UpstreamError | None = None
        for number, candidate in enumerate(tries):
            if number:
                state.counters.retries_total += 1
            try:
                if number == 0 and self._may_hedge(route, request, tries):
                    incoming = await self._hedged(tries[0], tries[1], request, route.balancing.hedge_s)
                else:
                    incoming = await self._attempt(candidate, request)
            except UpstreamError as error:
                last = error.again()
                candidate.endpoint.failed(state.clock.monotonic(), reached=error.sent)
                if not (error.timed_out and error.sent):  # an app that is slow says nothing of the way to it
                    candidate.endpoint.lost(str(error))
                if not self._may_go_on(request, error.sent, error.began):
                    break
                if error.sent and not self._retries.spend(now):  # what has reached nobody costs nobody anything
                    break
                continue
            if self._declined(incoming) and number + 1 < len(tries) and self._may_go_on(request, False, False):
                await incoming.abandon()
                continue
            if request.secure and route.hsts_s:
                _insist_on_tls(incoming.connection, route.hsts_s)
            if route.balancing.sticky_cookie:
                incoming.stay = _stay(incoming.candidate, route.balancing.sticky_cookie, wish, request.secure)
            return incoming
        raise self._no_answer(route, request, last)

    def _may_hedge(self, route: Route, request: Outgoing, tries: Sequence[Candidate]) -> bool:
        """Whether a second endpoint may be asked: nothing that changes anything, and not for every request."""
        if not route.balancing.hedge_s or len(tries) < 2 or request.method not in METHODS_SAFE:
            return False
        self._hedges = min(HEDGES_MAX, self._hedges + HEDGES_SHARE)
        return request.body is None and not request.upgrade

    async def _hedged(self, first: Candidate, second: Candidate, request: Outgoing, after_s: float) -> Incoming:
        """The answer that comes first and is no error of the server's, where there is one; the other is given up.

        Raises the first endpoint's UpstreamError when it failed before the second was asked, or when both did.
        """
        counters, clock = self._state.counters, self._state.clock
        tasks = [asyncio.create_task(self._attempt(first, request))]
        winner: asyncio.Task[Incoming] | None = None
        try:
            await asyncio.wait(tasks, timeout=after_s)
            if not tasks[0].done() and self._hedges >= 1:
                self._hedges -= 1
                counters.hedges_total += 1
                tasks.append(asyncio.create_task(self._attempt(second, request)))
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if not any(_came_well(task) for task in tasks):
                    await asyncio.wait(tasks)
                if _failed(tasks[1]):
                    second.endpoint.failed(clock.monotonic())
                winner = next(filter(_came_well, tasks), None) or next(filter(_came, tasks), None)
                if winner is tasks[1]:
                    counters.hedges_won_total += 1
                    if _failed(tasks[0]):
                        first.endpoint.failed(clock.monotonic())
            winner = winner or tasks[0]
            return await winner
        finally:
            for task in tasks:
                if task is not winner:
                    await _give_up(task)

    def _may_go_on(self, request: Outgoing, sent: bool, began: bool) -> bool:
        replayable = request.body is None or request.body.replayable
        idempotent = request.method in METHODS_IDEMPOTENT
        return not began and may_retry(idempotent=idempotent, sent=sent, replayable=replayable)

    def _declined(self, incoming: Incoming) -> bool:
        """A peer said that it has no answer either: it has not passed the request on, or has done so in vain for one
        that is safe."""
        connection, candidate = incoming.connection, incoming.candidate
        if candidate.peer is None or HOP not in connection.fields:
            return False
        return connection.status in (421, 503) or (candidate.shields and connection.status in (502, 504))

    async def _attempt(self, candidate: Candidate, request: Outgoing) -> Incoming:
        state = self._state
        endpoint = candidate.endpoint
        idempotent = request.method in METHODS_IDEMPOTENT
        now = state.clock.monotonic()
        endpoint.begin(now)
        connection = self.pool.take(endpoint.address, now, idempotent=idempotent)
        kept = connection is not None
        try:
            while True:
                if connection is None:
                    connection = await self.pool.connect(candidate)
                try:
                    return await self._exchange(candidate, connection, request)
                except UpstreamError as error:
                    connection.close()
                    if not kept or error.timed_out or not self._may_go_on(request, error.sent, error.began):
                        raise
                    connection, kept = None, False  # it was closed while it idled: that says nothing of the endpoint
        except BaseException:
            if connection is not None:
                connection.close()
            endpoint.end()
            raise

    async def _exchange(self, candidate: Candidate, connection: UpstreamConnection, request: Outgoing) -> Incoming:
        clock = self._state.clock
        request_time, since = clock.wall(), clock.monotonic()
        head = request.encode(candidate.peer is not None, candidate.shields)
        connection.begin(request.method, head, self._state.settings.upstream_timeout_s)
        connection.early = request.early
        if candidate.peer is not None:
            self._state.counters.peer_requests_total += 1
            self._state.counters.shield_requests_total += candidate.shields
        pump: asyncio.Task[None] | None = None
        if request.body is not None:
            request.body.rewind()
            pump = asyncio.create_task(_send_body(connection, request.body, request))
        try:
            await _head_or_refusal(connection, pump)
        except BaseException:
            await _stop(pump)
            raise
        now = clock.monotonic()
        # With a body the time is the client's more than the endpoint's.
        candidate.endpoint.answered(connection.status, now, now - since if request.body is None else None)
        return Incoming(self, candidate, connection, pump, request_time, clock.wall())

    def end(self, candidate: Candidate, connection: UpstreamConnection) -> None:
        """Counts the request as over and keeps the connection when it can be used again."""
        candidate.endpoint.end()
        self.pool.give_back(connection)

    def _no_answer(self, route: Route, request: Outgoing, error: UpstreamError | None) -> Refused:
        self._state.counters.unavailable_total += 1
        if error is not None and error.timed_out:
            return Refused(504, f"the app {route.app} did not answer in time", close=False)
        if error is not None and error.sent:
            return Refused(502, f"the app {route.app} broke off before it answered", close=False)
        if request.local_only:
            return Refused(503, f"no healthy replica of {route.app} on this node", close=False)
        return Refused(503, f"no healthy replica of {route.app} in any region; try again", close=False)


def _insist_on_tls(connection: UpstreamConnection, seconds: int) -> None:
    """Adds the policy of the app, unless the app has said something of its own (RFC 6797, section 7.1)."""
    if HSTS not in connection.fields:
        connection.fields[HSTS] = value = b"max-age=%d" % seconds
        connection.headers.append((b"Strict-Transport-Security", value))


def _stay(candidate: Candidate, name: bytes, wish: affinity.Wish, secure: bool) -> bytes:
    """The cookie by which a client comes back to the replica that answered, unless it has said it already."""
    if candidate.local is None or affinity.token_of(candidate.local.replica) == wish.token:
        return b""
    return affinity.set_cookie(name, candidate.local.replica, secure)


def _came(task: asyncio.Task[Incoming]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _came_well(task: asyncio.Task[Incoming]) -> bool:
    return _came(task) and task.result().connection.status < 500


def _failed(task: asyncio.Task[Incoming]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


async def _give_up(task: asyncio.Task[Incoming]) -> None:
    """Ends a try that nobody waits for, also one that has just got its answer."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, UpstreamError, Refused):
        await (await task).abandon()


async def _head_or_refusal(connection: UpstreamConnection, pump: asyncio.Task[None] | None) -> None:
    """Waits for the response's head; a client whose body is at fault ends the wait."""
    if pump is None:
        await connection.head()
        return
    head = asyncio.ensure_future(connection.head())
    try:
        await asyncio.wait((head, pump), return_when=asyncio.FIRST_COMPLETED)
        if pump.done() and not head.done() and isinstance(refusal := pump.exception(), Refused):
            raise refusal.again()
        await head
    finally:
        head.cancel()
        del head  # it holds what it raised, and that this frame


async def _send_body(connection: UpstreamConnection, body: ReplayBody, request: Outgoing) -> None:
    chunked = request.content_length is None
    while data := await body.read():
        await connection.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
    if chunked:
        await connection.write(encode_head(b"0", trailers.of_request(body.trailers, request.fields)))
