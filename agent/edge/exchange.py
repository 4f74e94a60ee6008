"""One request that cannot be answered from RAM at once: routed, fetched, perhaps shared, and sent on."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Final, Protocol

from agent.edge import cached, quick
from agent.edge.body import ReplayBody
from agent.edge.core import cache_status, conditional, freshness, http_date, trailers
from agent.edge.core import headers as fields_rules
from agent.edge.core.cache_status import Forward
from agent.edge.core.headers import HeaderList, Origin, end_to_end
from agent.edge.core.http_rules import NO_HTTP_RULES, HeaderEdits, HttpRules
from agent.edge.core.request_head import METHODS_SAFE, Refused, RequestHead, switches
from agent.edge.core.routing import Candidate, Route
from agent.edge.express import Way, with_ids
from agent.edge.fetcher import HOP, RETRY_AFTER_S, SHIELD, Fetcher, Incoming, outgoing
from agent.edge.fill import Fill, FillBroken, Private, Shared
from agent.edge.filler import Filler
from agent.edge.heads import Heads
from agent.edge.recall import Recall, may_recall
from agent.edge.relay import Relay, length_of
from agent.edge.responder import Request, Responder
from agent.edge.responses import is_ours
from agent.edge.state import EdgeState
from agent.edge.unsafe import invalidate, posted
from agent.edge.upstream import UpstreamConnection, UpstreamError

if TYPE_CHECKING:
    from agent.edge.express import Express

_SHORT_WAY: Final = frozenset((b"cdn-loop", b"cache-control", b"pragma"))
"""A request with one of these has wishes that take a closer look."""
RELAY_DROPPED: Final = fields_rules.HOP_BY_HOP | {
    b"content-length",
    b"cache-status",
    b"x-request-id",
    b"via",
    b"locci-hop",
}


class Source(Protocol):
    """Where a body comes from."""

    @property
    def available(self) -> bool:
        """Whether `read` would not wait."""
        ...

    async def read(self) -> bytes:
        """The next bytes; b"" at the end."""
        ...


async def _abandon(fill: Fill) -> None:
    outcome = fill.outcome.result()
    if isinstance(outcome, Private):
        await outcome.incoming.abandon()


def _shielded(client: Responder, request: Request) -> bool:
    """Whether another edge asks this one as the tier above."""
    return client.peer and request.head.fields.get(HOP) == SHIELD


class Exchange:
    """Serves requests; one instance for all connections of a worker."""

    def __init__(self, state: EdgeState, fetcher: Fetcher, filler: Filler):
        self._state = state
        self._fetcher = fetcher
        self._filler = filler
        self._heads = Heads(state, fetcher, filler)
        self.pool = fetcher.pool

    # ---- without waiting

    def name(self, request: Request) -> None:
        """The client's own id of the request is kept, when it is fit for one."""
        kept_id = request.head.fields.get(b"x-request-id")
        if kept_id is not None and fields_rules.acceptable_request_id(kept_id):
            request.id = kept_id

    def relay(self, client: Express, request: Request) -> Relay | None:
        """Sends the request on at once over a connection that is ready; None when `serve` must see to it."""
        head, state, found = request.head, self._state, request.found
        if found is None or found.entry is not None or client.peer or not _SHORT_WAY.isdisjoint(head.fields):
            return None
        route = state.route(head.host)
        if route is None:
            return None
        if found.why is not Forward.BYPASS and route.cache:
            if head.method == b"GET" and not state.is_uncacheable(request.key):
                return None
        elif not route.cache:
            found = cached.Lookup(None, False, False, Forward.BYPASS)
        if request.scheme == b"https" and route.hsts_s:
            return None
        if route.http is not NO_HTTP_RULES:
            if route.http.patient:
                return None
            request.http = route.http
        taken = self._fetcher.ready(route)
        if taken is None:
            return None
        candidate, connection = taken
        request.app = route.app
        self.name(request)
        request.cache_status = cache_status.forwarded(found.why)
        state.counters.misses_total += 1
        prefix, traced = self._fields(client, head, request.scheme, route.http)
        sent = with_ids(prefix, request.id, b"" if traced else state.trace())
        connection.begin(head.method, sent, state.settings.upstream_timeout_s)
        return Relay(self, client, request, candidate, connection)

    def recall(self, client: Express, request: Request) -> Recall | None:
        """Asks the second tier; None when that is no use."""
        tier = self._state.tier
        if tier is None or not may_recall(self._state, request):
            return None
        asked = Recall(self, self._state, client, request)
        return asked if tier.ask(request.key, request.head.fields, asked.answered) else None

    def way(self, client: Express, head: RequestHead) -> Way:
        """How plain GETs with that head go on, as long as the table stays."""
        state = self._state
        way = Way(head, state.table)
        route = state.route(head.host)
        if quick.rewritten is None or route is None or client.peer or not _SHORT_WAY.isdisjoint(head.fields):
            return way
        secure = client.scheme == b"https"
        ruled = (route.hsts_s and secure) or (route.redirect and not secure) or route.http is not NO_HTTP_RULES
        if ruled or not route.balancing.plain or not route.local or is_ours(head.target):
            return way
        steady = [local for local in route.local if not local.draining and local.address in state.endpoints]
        way.several = tuple(Candidate(state.endpoints[local.address], local, None) for local in steady)
        way.endpoints = tuple(candidate.endpoint for candidate in way.several)
        if not steady:
            return way
        if len(steady) == 1:
            way.candidate = way.several[0]
        way.pool, way.kept = self.pool, self.pool.kept
        way.route, way.app, way.cached = route, route.app, route.cache
        way.request = Request(head, b"", None, b"", 0.0)
        way.why = Forward.URI_MISS if route.cache else Forward.BYPASS
        way.member = cache_status.forwarded(way.why)
        way.prefix, way.traced = self._fields(client, head, client.scheme, route.http)
        return way

    def _fields(self, client: Express, head: RequestHead, scheme: bytes, http: HttpRules) -> tuple[bytes, bool]:
        """The head for a replica but for ids, and whether the client has a trace. A client whose requests differ in
        nothing but their targets pays for that once."""
        line = b"%b %b HTTP/1.1\r\n" % (head.method, http.rewritten(head.host, head.target))
        known, like = client.forwarded, (head.method, head.minor, head.host, head.headers, scheme, http)
        if known is None or known[0] != like:
            made = outgoing(head, Origin(client.address, scheme, head.host, b"", client.peer), None, http=http)
            made.headers = [pair for pair in made.headers if pair[0] != b"X-Request-Id"]
            traced = fields_rules.acceptable_traceparent(head.fields.get(b"traceparent"))
            rest = made.encode(False)[len(line) : -2]
            client.forwarded = known = (like, rest, traced)
        return line + known[1], known[2]

    def now(self) -> float:
        """Monotonic seconds."""
        return self._state.clock.monotonic()

    def wall(self) -> float:
        """Seconds since 1970."""
        return self._state.wall()

    def release(self, candidate: Candidate, connection: UpstreamConnection) -> None:
        """A relay is over."""
        self._fetcher.end(candidate, connection)

    def count_sent(self, size: int) -> None:
        """A relay has sent a body."""
        self._state.counters.body_bytes_sent_total += size

    def count_truncated(self) -> None:
        """A relay could not send all of a body."""
        self._state.counters.truncated_total += 1

    def refuse_broken(self, client: Responder, request: Request) -> None:
        """A relay's endpoint has sent something that is no response."""
        self._state.counters.unavailable_total += 1
        self._refuse(client, request, Refused(502, f"the app {request.app} broke off before it answered", close=False))

    # ---- with all patience

    async def serve(self, client: Responder, request: Request) -> None:
        """Answers the request, with an error if need be. Raises only CancelledError."""
        try:
            await self._serve(client, request)
        except Refused as refusal:
            if client.response_begun:
                client.break_off()
            else:
                self._refuse(client, request, refusal)
        except (UpstreamError, FillBroken):
            self._state.counters.truncated_total += 1
            client.break_off()

    def _refuse(self, client: Responder, request: Request, refusal: Refused) -> None:
        extra: HeaderList = [(b"X-Request-Id", request.id), (b"Via", b"1.1 locci")]
        if refusal.status == 503:
            extra.append((b"Retry-After", b"%d" % RETRY_AFTER_S))
        in_vain = refusal.status in (502, 504) and _shielded(client, request)
        if client.peer and (refusal.status in (421, 503) or in_vain):
            extra.append((b"Locci-Hop", b"no-local-replica"))
        member = request.cache_status or cache_status.forwarded(Forward.BYPASS)
        if refusal.status in (502, 503, 504):
            member += b"; detail=" + cache_status.token("no-answer")
        extra.append((cache_status.NAME, member))
        client.send_text(request, refusal, extra)

    async def _serve(self, client: Responder, request: Request) -> None:
        head, state = request.head, self._state
        if b"cdn-loop" in head.fields and fields_rules.loops(head.fields) > fields_rules.LOOPS_MAX:
            raise Refused(508, "the request has come by here before (CDN-Loop)", close=False)
        route = state.route(head.host)
        if route is None and not state.table.generation:
            raise Refused(503, "this edge has no configuration yet; try again", close=False)
        if route is None:
            host = head.host.decode("latin-1")
            raise Refused(421, f"no app here has the hostname {host}", close=False)
        request.app, request.http = route.app, route.http
        self.name(request)
        most = route.http.limits.in_progress_max
        if not most:
            await self._answer(client, request, route)
            return
        if state.asked[route.app] >= most:
            state.counters.limited_total += 1
            raise Refused(503, f"the app {route.app} has too many requests to answer; try again", close=False)
        state.asked[route.app] += 1
        try:
            await self._answer(client, request, route)
        finally:
            state.asked[route.app] -= 1

    async def _answer(self, client: Responder, request: Request, route: Route) -> None:
        head, state = request.head, self._state
        trace = fields_rules.traceparent(state.rng.getrandbits(192))
        shielded = _shielded(client, request)
        origin = Origin(client.address, request.scheme, head.host, request.id, client.peer, trace, shielded)
        if head.method not in (b"GET", b"HEAD"):
            await self._pass(client, request, route, origin, Forward.METHOD)
        elif head.has_body or head.upgrade or not route.cache or conditional.for_origin_only(head.fields):
            await self._pass(client, request, route, origin, Forward.BYPASS)
        else:
            await self._through_cache(client, request, route, origin)

    async def _through_cache(self, client: Responder, request: Request, route: Route, origin: Origin) -> None:
        state, head, key = self._state, request.head, request.key
        found = request.found or cached.look_up(state, head, key)
        wanted = freshness.demands(head.fields)
        request.cache_status = cache_status.forwarded(found.why)
        if found.why is Forward.BYPASS:
            await self._pass(client, request, route, origin, found.why)
            return
        if found.revalidate and found.entry is not None:
            state.counters.stale_served_total += 1
            part = conditional.wanted_part(head.fields) if found.entry.parts is not None else b""
            if state.fill_of(key, part) is None and (part or found.entry.parts is None):
                self._filler.begin(key, route, head, origin, found.entry, 0, part)
            ttl = int(found.entry.ttl_s(state.clock.wall()))
            client.send_stored(request, found.entry, cache_status.hit_with(ttl, "stale-while-revalidate"))
            return
        if found.usable and found.entry is not None:
            client.send_stored(request, found.entry, cache_status.hit(int(found.entry.ttl_s(state.clock.wall()))))
            return
        if wanted.only_if_cached:  # RFC 9111 section 5.2.1.7
            raise Refused(504, "nothing stored can answer this request (only-if-cached)", close=False)
        whole = found.entry is not None and found.entry.parts is None
        if head.method == b"HEAD" and whole and found.entry is not None:
            asked_s = wanted.stale_if_error_s
            came = await self._heads.answer(client, request, route, origin, found.entry, found.why, asked_s)
            if came is not None:
                await self._relay(client, request, came, cache_status.forwarded(found.why))
            return
        part = b"" if whole else conditional.wanted_part(head.fields)
        alone = head.method == b"HEAD" or wanted.no_store or state.is_uncacheable(key)
        alone = alone or (b"range" in head.fields and not part)
        if alone and not whole:
            await self._pass(client, request, route, origin, found.why)
            return
        await self._fill(client, request, route, origin, found, wanted, part)

    async def _fill(
        self,
        client: Responder,
        request: Request,
        route: Route,
        origin: Origin,
        found: cached.Lookup,
        wanted: freshness.Demands,
        part: bytes,
    ) -> None:
        state, head = self._state, request.head
        fill = state.fill_of(request.key, part)
        leads = fill is None
        if fill is None:
            stale_s, recalled = wanted.stale_if_error_s, request.recalled
            fill = self._filler.begin(request.key, route, head, origin, found.entry, stale_s, part, recalled=recalled)
            if fill is None:
                await self._pass(client, request, route, origin, found.why)
                return
        else:
            state.counters.fills_joined_total += 1
        reader = fill.join()
        if leads:
            fill.leader, fill.early = reader, functools.partial(client.send_early, request)
        try:
            await asyncio.wait((fill.outcome,))
            if isinstance(refusal := fill.outcome.exception(), Refused):
                raise refusal.again()
            outcome = fill.outcome.result()
            if isinstance(outcome, Shared) and fill.fits(head.fields) and (leads or outcome.for_all):
                member = self._member(outcome, found.why, collapsed=not leads)
                own = outcome.own if leads else []
                await self._send_shared(client, request, fill, outcome, reader, member, own)
                return
            if isinstance(outcome, Private) and leads:
                member = cache_status.forwarded(found.why, detail=outcome.why)
                await self._relay(client, request, outcome.incoming, member)
                return
        finally:
            fill.leave(reader)
            if leads and fill.handed_over and fill.outcome.done():
                await _abandon(fill)
        await self._pass(client, request, route, origin, found.why)

    def _member(self, outcome: Shared, why: Forward, *, collapsed: bool) -> bytes:
        ttl = int(outcome.entry.ttl_s(self._state.clock.wall()))
        match outcome.how:
            case "second-tier":
                self._state.counters.second_tier_hits_total += 1
                return cache_status.hit_with(ttl, "second-tier")
            case "stale":
                return cache_status.hit_with(ttl, "stale-if-error")
            case "revalidated":
                return cache_status.forwarded(why, status=304, stored=outcome.for_all, collapsed=collapsed)
            case _:
                return cache_status.forwarded(why, stored=True, collapsed=collapsed)

    async def _send_shared(
        self,
        client: Responder,
        request: Request,
        fill: Fill,
        outcome: Shared,
        source: Source,
        member: bytes,
        own: HeaderList,
    ) -> None:
        entry = outcome.entry
        if outcome.how != "stored" or conditional.not_modified(request.head.fields, entry, self._state.clock.wall()):
            client.send_stored(request, entry, member, own)
            return
        self._state.counters.misses_total += 1
        request.cache_status = member
        now = self._state.clock.wall()
        if entry.status in request.http.replaced and client.paged(request, entry.status, entry.reason, entry.headers):
            return
        more: HeaderList = [
            *own,
            (b"Age", b"%d" % int(entry.age_s(now))),
            (b"Via", b"1.1 locci"),
            (cache_status.NAME, member),
            (b"X-Request-Id", request.id),
        ]
        length = fill.length
        edits = None if client.peer else request.http.response
        headers = entry.headers if edits is None else edits.apply(entry.headers)
        await self._send(client, request, entry.status, entry.reason, headers + more, length, source)

    # ---- without the cache

    async def _pass(self, client: Responder, request: Request, route: Route, origin: Origin, why: Forward) -> None:
        head = request.head
        member = cache_status.forwarded(why)
        request.cache_status = member
        body = None
        if request.body is not None:
            client.invite_body(request)
            body = ReplayBody(request.body)
        sent = outgoing(head, origin, body, http=route.http)
        sent.early = functools.partial(client.send_early, request)
        incoming = await self._fetcher.fetch(route, sent)
        kept = None
        if head.method not in METHODS_SAFE:
            invalidate(self._state, request, incoming)
            kept = posted(self._state, request, route, incoming)
        await self._relay(client, request, incoming, member, kept)
        if kept is not None:
            kept.store()

    async def _relay(
        self, client: Responder, request: Request, incoming: Incoming, member: bytes, body: Source | None = None
    ) -> None:
        """Sends an endpoint's response on as it comes, its body by way of `body` if there is that."""
        connection = incoming.connection
        request.cache_status = member
        try:
            self._state.counters.misses_total += 1
            edits = None if client.peer else request.http.response
            headers = self.relayed(connection, request, incoming.response_time, member, edits)
            if incoming.stay:
                headers.append((b"Set-Cookie", incoming.stay))
            if connection.status == 101 and not switches(request.head.upgrade):
                raise Refused(502, f"the app {request.app} answered with an upgrade that nobody asked for", close=False)
            if connection.status == 101:
                await client.tunnel(request, incoming, headers)
                return
            if connection.status in request.http.replaced and client.paged(
                request, connection.status, connection.reason, connection.headers
            ):
                await incoming.discard()
                return
            length = length_of(connection)
            source = connection if body is None else body
            await self._send(client, request, connection.status, connection.reason, headers, length, source)
        except BaseException:
            await incoming.abandon()
            raise
        await incoming.done()

    def relayed(
        self,
        connection: UpstreamConnection,
        request: Request,
        response_time: float,
        member: bytes,
        edits: HeaderEdits | None,
    ) -> HeaderList:
        """A response's fields as the client gets them, but for framing."""
        fields = connection.fields
        headers = end_to_end(connection.headers, fields, RELAY_DROPPED)
        if edits is not None:
            headers = edits.apply(headers)
        if b"date" not in fields:
            headers.append((b"Date", http_date.render(response_time)))
        if b"trailer" in fields and trailers.wanted(request.head.fields):
            headers.append((b"Trailer", trailers.announced(fields[b"trailer"])))
        via = fields.get(b"via")
        headers.append((b"Via", via + b", 1.1 locci" if via else b"1.1 locci"))
        headers.append((cache_status.NAME, cache_status.appended(fields.get(b"cache-status"), member)))
        headers.append((b"X-Request-Id", request.id))
        return headers

    async def _send(
        self,
        client: Responder,
        request: Request,
        status: int,
        reason: bytes,
        headers: HeaderList,
        length: int | None,
        source: Source,
    ) -> None:
        """Status, fields and body."""
        bodiless = request.bodiless or status in (204, 304)
        client.begin_response(request, status, reason, headers, length)
        sent = 0
        while not bodiless:
            if not source.available:
                client.flush()
            data = await source.read()
            if not data:
                break
            sent += len(data)
            if length is not None and sent > length:
                raise UpstreamError("more body than it said", sent=True, began=True)
            await client.write(data)
            if length is not None and sent == length:
                break
        if length is not None and sent != length and not bodiless:
            raise UpstreamError("less body than it said", sent=True, began=True)
        self._state.counters.body_bytes_sent_total += sent
        client.end_response(request, sent, source.trailers if isinstance(source, UpstreamConnection) else [])
