"""What requests with unsafe methods do to the cache: success invalidates, and a POST may leave something to store."""

from __future__ import annotations

from agent.edge.core import cache_key, compression, freshness, vary
from agent.edge.core.entry import labelled_as_plain, make
from agent.edge.core.freshness import Verdict
from agent.edge.core.routing import Route
from agent.edge.fetcher import Incoming
from agent.edge.relay import length_of
from agent.edge.responder import Request
from agent.edge.state import EdgeState


def invalidate(state: EdgeState, request: Request, incoming: Incoming) -> None:
    """After a success of an unsafe method (RFC 9111 section 4.4)."""
    status, fields, head = incoming.connection.status, incoming.connection.fields, request.head
    if not 200 <= status < 400:
        return
    state.forget(request.key)
    for name in (b"location", b"content-location"):
        reference = fields.get(name)
        if reference is None:
            continue
        target = cache_key.same_origin_target(request.scheme, head.host, head.target, reference)
        if target is not None:
            state.forget(state.key(request.scheme, head.host, target))


class Posted:
    """The body of an answer to POST on its way to the client, stored for later GETs when it is whole."""

    def __init__(self, state: EdgeState, request: Request, route: Route, incoming: Incoming, verdict: Verdict):
        self._state = state
        self._request = request
        self._route = route
        self._incoming = incoming
        self._verdict = verdict
        self._forgotten = state.forgotten
        self._chunks: list[bytes] = []

    @property
    def available(self) -> bool:
        """Whether `read` would not wait."""
        return self._incoming.connection.available

    async def read(self) -> bytes:
        """The next bytes; b"" at the end."""
        data = await self._incoming.connection.read()
        self._chunks.append(data)
        return data

    def store(self) -> None:
        """Call it when the client has got everything. Nothing is stored when something was forgotten meanwhile."""
        state, incoming, request = self._state, self._incoming, self._request
        connection, rules, body = incoming.connection, self._route.rules, b"".join(self._chunks)
        if state.forgotten != self._forgotten or len(body) != length_of(connection):
            return
        times = (incoming.request_time, incoming.response_time)
        sequence = self._route.purges.sequence
        entry = make(200, connection.reason, connection.headers, body, self._verdict, *times, rules.keyed, sequence)
        if rules.compress and compression.eligible(200, entry.fields, len(body)):
            entry = labelled_as_plain(entry)
        variants = state.keep(request.key, entry, request.head.fields)
        if state.tier is not None:
            state.tier.put(request.key, entry, variants, request.head.fields)


def posted(state: EdgeState, request: Request, route: Route, incoming: Incoming) -> Posted | None:
    """What may be stored of an answer to POST (RFC 9110 section 9.3.3): with explicit freshness, and with the request's
    own target as its Content-Location. None for anything else."""
    connection, head = incoming.connection, request.head
    if head.method != b"POST" or connection.status != 200 or not route.cache:
        return None
    fields, length = connection.fields, length_of(connection)
    if length is None or length > route.object_bytes_max or vary.names(fields.get(b"vary")) is None:
        return None
    reference = fields.get(b"content-location", b"")
    if cache_key.same_origin_target(request.scheme, head.host, head.target, reference) != head.target:
        return None
    verdict = freshness.judge(b"GET", 200, head.fields, fields, incoming.response_time)
    if not verdict.storable or not verdict.lifetime_s or verdict.validate_always:
        return None
    return Posted(state, request, route, incoming, verdict)
