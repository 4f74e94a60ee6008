"""One request that the second tier of the cache may answer, driven by what comes: no task, no waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.edge import cached
from agent.edge.core import cache_status
from agent.edge.core.cache_status import Forward
from agent.edge.core.entry import StoredResponse, Variants
from agent.edge.ports import Found
from agent.edge.state import EdgeState

if TYPE_CHECKING:
    from agent.edge.exchange import Exchange
    from agent.edge.express import Express
    from agent.edge.responder import Request


NOTHING: Final = cached.Lookup(None, False, False, Forward.URI_MISS)


def may_recall(state: EdgeState, request: Request) -> bool:
    """Whether the second tier can have an answer that is not in RAM: a request that a fetch for all would be made for,
    while none is made."""
    found, head, key = request.found, request.head, request.key
    if state.tier is None or found is None or found.entry is not None or found.why is Forward.BYPASS:
        return False
    if head.method != b"GET" or b"range" in head.fields or b"cdn-loop" in head.fields or head.has_body or head.upgrade:
        return False
    route = state.route(head.host)
    return route is not None and route.cache and key not in state.fills and not state.is_uncacheable(key)


class Recall:
    """Waits for the second tier; the client goes on with what comes, or with all patience when that is nothing."""

    __slots__ = ("_client", "_exchange", "_forgotten", "_over", "_request", "_state")

    def __init__(self, exchange: Exchange, state: EdgeState, client: Express, request: Request):
        self._exchange = exchange
        self._state = state
        self._client = client
        self._request = request
        self._forgotten = state.forgotten
        self._over = False

    def answered(self, found: Found | None) -> None:
        """The second tier says what it has."""
        if self._over:
            return
        self._over = True
        request, state, client = self._request, self._state, self._client
        request.recalled = True
        # What was forgotten after it was asked for may be this.
        entry = None if found is None or self._forgotten != state.forgotten else state.purged(request.key, found[0])
        if found is None or entry is None:
            client.relayed(request, again=True)
            return
        now = state.wall()
        if now < entry.fresh_until and request.head.plain and entry.status == 200 and client.keeps_on(request):
            if found[1] is None:
                state.store.put(request.key, entry, entry.cost_bytes)
            else:
                self._store(entry, found[1])
            state.counters.second_tier_hits_total += 1
            client.send_whole(request, entry, now)
            return
        request.found = seen = cached.judged(request.head, entry, now)
        if now < entry.fresh_until:
            self._store(entry, found[1])
        elif now >= entry.useful_until and not entry.etag and not entry.last_modified:
            request.found = NOTHING
        if not seen.usable or seen.revalidate:
            client.relayed(request, again=True)
            return
        self._exchange.name(request)
        state.counters.second_tier_hits_total += 1
        client.send_stored(request, entry, cache_status.hit_with(int(entry.ttl_s(now)), "second-tier"))
        client.relayed(request)

    def _store(self, entry: StoredResponse, variants: Variants | None) -> None:
        request, state = self._request, self._state
        if variants is None:
            state.store.put(request.key, entry, entry.cost_bytes)
        else:
            state.keep_variant(request.key, entry, variants, request.head.fields)

    def client_full(self) -> None:
        """Nothing is sent before all of it is there."""

    def client_drained(self) -> None:
        """Nor does anything wait for that."""

    def abandon(self) -> None:
        """The client has gone."""
        self._over = True
