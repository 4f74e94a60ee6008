"""HEAD for what is stored but cannot be used as it is: the answer updates it (RFC 9111 section 4.3.5)."""

from __future__ import annotations

import functools

from agent.edge.core import cache_status, conditional, freshness
from agent.edge.core.cache_status import Forward
from agent.edge.core.entry import StoredResponse, own_only
from agent.edge.core.headers import Origin
from agent.edge.core.request_head import Refused
from agent.edge.core.routing import Route
from agent.edge.fetcher import Fetcher, Incoming, outgoing
from agent.edge.filler import ERRORS, Filler
from agent.edge.responder import Request, Responder
from agent.edge.state import EdgeState


class Heads:
    """Asks for all; one instance for a worker."""

    def __init__(self, state: EdgeState, fetcher: Fetcher, filler: Filler):
        self._state = state
        self._fetcher = fetcher
        self._filler = filler

    async def answer(
        self,
        client: Responder,
        request: Request,
        route: Route,
        origin: Origin,
        entry: StoredResponse,
        why: Forward,
        asked_s: int,
    ) -> Incoming | None:
        """Answers from what is stored, brought up to date; otherwise what came, for the client to have as it is.

        `asked_s` is the request's stale-if-error. Raises Refused.
        """
        head = request.head
        on_error = freshness.usable_on_error(entry.verdict, entry.ttl_s(self._state.clock.wall()), asked_s)
        sent = outgoing(head, origin, None, http=route.http)
        sent.early = functools.partial(client.send_early, request)
        try:
            incoming = await self._fetcher.fetch(route, sent)
        except Refused:
            if not on_error:
                raise
            self._send_stale(client, request, entry)
            return None
        status = incoming.connection.status
        if status in ERRORS and on_error:
            await incoming.abandon()
            self._send_stale(client, request, entry)
            return None
        updated = None
        if status == 200 or (status == 304 and conditional.selects(entry, incoming.connection.fields)):
            updated = self._filler.update_by_head(request.key, route, head, entry, incoming)
        if status != 200 or updated is None:
            return incoming
        await incoming.done()
        own = own_only(incoming.connection.headers, updated.verdict)
        client.send_stored(request, updated, cache_status.forwarded(why, stored=True), own)
        return None

    def _send_stale(self, client: Responder, request: Request, entry: StoredResponse) -> None:
        self._state.counters.stale_served_total += 1
        ttl = int(entry.ttl_s(self._state.clock.wall()))
        client.send_stored(request, entry, cache_status.hit_with(ttl, "stale-if-error"))
