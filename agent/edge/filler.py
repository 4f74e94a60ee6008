"""Begins fetches that fill the cache, carries them out, and decides what is stored of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from agent.edge.core import compression, conditional, freshness, partial, vary
from agent.edge.core.cache_rules import CacheRules
from agent.edge.core.entry import (
    StoredResponse,
    coded,
    combined,
    completed,
    freshened,
    labelled_as_plain,
    made_stale,
    make,
    own_only,
    part,
    same_body,
)
from agent.edge.core.freshness import Verdict
from agent.edge.core.headers import Fields, HeaderList, Origin, fields_of
from agent.edge.core.partial import Place
from agent.edge.core.request_head import CONDITIONS, Refused, RequestHead
from agent.edge.core.routing import Route
from agent.edge.fetcher import Fetcher, Incoming, outgoing
from agent.edge.fill import Fill, Private, Shared
from agent.edge.redis_tier import VALUE_BYTES_MAX
from agent.edge.state import EdgeState
from agent.edge.upstream import UpstreamError

DROPPED: Final = frozenset((*CONDITIONS, b"cache-control"))
# RFC 5861 section 4.
ERRORS: Final = frozenset((500, 502, 503, 504))
FILL_BYTES_MIN: Final = 64 * 2**20
"""So much may come at the same time, however small the cache is."""
NO_ROOM: Final = "no-room"
_NOT_OF_THE_RESPONSE: Final = frozenset(("invalidated", NO_ROOM))


class Filler:
    """Begins fetches and carries them out, each in a task of its own."""

    def __init__(self, state: EdgeState, fetcher: Fetcher):
        self._state = state
        self._fetcher = fetcher
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(
        self,
        key: bytes,
        route: Route,
        head: RequestHead,
        origin: Origin,
        stale: StoredResponse | None,
        stale_if_error_s: int = 0,
        part: bytes = b"",
        *,
        recalled: bool = False,
    ) -> Fill | None:
        """A fetch for the key or a part of it, at first from the second tier unless that was `recalled` in vain.

        None when fetches hold as much memory as they may.
        """
        if not self._room(1):
            return None
        fill = Fill(key, route, head, origin, stale, stale_if_error_s, part)
        fill.purge_round = self._state.purge_round
        fill.recalled = recalled
        fill.outcome.add_done_callback(_retrieved)
        self._state.enter_fill(fill)
        self._state.counters.fills_total += 1
        task = asyncio.create_task(self._run(fill))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return fill

    @property
    def _most(self) -> int:
        return max(self._state.settings.ram_cache_bytes, FILL_BYTES_MIN)

    def _storable(self, route: Route) -> int:
        """Larger bodies are not stored: the app or the manifest has said so, or no tier would take them."""
        tiers = self._state.store.largest_bytes
        if self._state.tier is not None:
            tiers = max(tiers, VALUE_BYTES_MAX)
        return min(route.object_bytes_max, tiers)

    def _room(self, size: int) -> bool:
        """Whether so much more may come and be stored: what comes at the same time, or is lent, has a bound."""
        coming = self._state.fill_bytes + size
        return coming <= self._most and coming + self._state.loans.bytes <= 2 * self._most

    async def close(self) -> None:
        """Ends all that run."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, fill: Fill) -> None:
        try:
            if not await self._from_second_tier(fill):
                await self._from_endpoint(fill)
        except Refused as refusal:
            if not self._use_stale(fill):
                fill.outcome.set_exception(refusal.again())
        finally:
            if not fill.outcome.done():
                fill.outcome.set_exception(Refused(503, "the edge is stopping", close=True))
            self._state.leave_fill(fill)

    async def _from_second_tier(self, fill: Fill) -> bool:
        state = self._state
        enough = fill.stale is not None and fill.suffices(fill.stale)
        if state.tier is None or enough or fill.recalled:
            return False
        found = await state.tier.get(fill.key, fill.head.fields)
        if found is None or not fill.may_store:
            return False
        now, (stored, variants) = state.clock.wall(), found
        entry = state.purged(fill.key, stored)
        if entry is None:
            return False
        if now >= entry.fresh_until:
            if now < entry.useful_until or entry.etag or entry.last_modified:
                fill.stale = entry
            return False
        if variants is None:
            state.store.put(fill.key, entry, entry.cost_bytes)
        else:
            state.keep_variant(fill.key, entry, variants, fill.head.fields)
        self._settle(fill, entry, "second-tier")
        return True

    def _settle(self, fill: Fill, entry: StoredResponse, how: str) -> None:
        """The response is whole and known."""
        fill.add(entry.body)
        fill.end(broken=False)
        fill.outcome.set_result(Shared(entry, how))

    def _use_stale(self, fill: Fill) -> bool:
        stale, now = fill.stale, self._state.clock.wall()
        if stale is None or not fill.suffices(stale):
            return False
        if not freshness.usable_on_error(stale.verdict, stale.ttl_s(now), fill.stale_if_error_s):
            return False
        self._state.counters.stale_served_total += 1
        self._settle(fill, stale, "stale")
        return True

    async def _from_endpoint(self, fill: Fill) -> None:
        request = outgoing(fill.head, fill.origin, None, drop=DROPPED, http=fill.route.http)
        request.method, request.early = b"GET", fill.early
        if not fill.origin.trusted:  # an edge above asks no other: there is no way round in circles
            request.shield_key = fill.key
        plain = request.headers
        if fill.part:
            plain = plain + [pair for pair in fill.head.headers if pair[0].lower() in (b"range", b"if-range")]
        gap = None
        if fill.stale is not None and not fill.suffices(fill.stale):
            gap = None if fill.part else conditional.rest(fill.stale, fill.route.object_bytes_max)
            request.headers = plain if gap is None else plain + conditional.request_for_rest(fill.stale, gap)
        elif fill.stale is not None:
            request.headers = plain + conditional.validators(fill.stale)
        else:
            request.headers = plain
        incoming = await self._fetcher.fetch(fill.route, request)
        beside = gap is not None and fill.stale is not None and not _completes(fill.stale, gap, incoming)
        if incoming.connection.status == 304 and fill.stale is not None and gap is None:
            if conditional.selects(fill.stale, incoming.connection.fields):
                await self._revalidated(fill, incoming, fill.stale)
                return
            beside = True  # RFC 9111 section 4.3.4: it speaks of something that is not stored here.
        if beside:
            await incoming.abandon()
            self._state.drop(fill.key, fill.head.fields)
            fill.stale = gap = None
            request.headers = plain
            incoming = await self._fetcher.fetch(fill.route, request)
        try:
            await self._take(fill, incoming, gap)
        except BaseException:
            if not fill.handed_over:
                await incoming.abandon()
            raise

    async def _take(self, fill: Fill, incoming: Incoming, gap: tuple[int, int] | None) -> None:
        if incoming.connection.status in ERRORS and self._use_stale(fill):
            await incoming.abandon()
            return
        coming = _coming(fill, incoming, gap)
        why = coming.why
        if not why and coming.known_bytes > self._storable(fill.route):
            why = "too large"
        if not why and not self._room(coming.known_bytes):
            why = NO_ROOM
        if why or not fill.may_store:
            await self._hand_over(fill, incoming, why or "invalidated")
            return
        fill.length = coming.length
        fill.outcome.set_result(Shared(coming.entry(b""), "stored", own_only(coming.headers, coming.verdict)))
        try:
            if coming.before:
                fill.add(coming.before)
            whole = await self._read(fill, incoming)
            if coming.place is not None and whole and fill.size != len(coming.before) + coming.place.size:
                raise UpstreamError("another length than the place of the part", sent=True, began=True)
            if coming.after:
                fill.add(coming.after)
        except UpstreamError:
            self._state.counters.truncated_total += 1
            fill.end(broken=True)
            await incoming.abandon()
            if fill.may_store and fill.size <= fill.route.object_bytes_max:
                self._store_beginning(fill, coming)
            return
        rules = fill.route.rules
        compress = rules.compress and compression.eligible(coming.status, coming.fields, fill.size)
        if whole and compress and not fill.part:
            fill.end(broken=False)  # nobody waits for the compressor
            await incoming.done()
            coding = compression.choose(fill.head.fields.get(b"accept-encoding"))
            entry = await asyncio.to_thread(coded, coming.entry(fill.whole()), coding)
            if fill.may_store:
                self._store(fill, entry)
            return
        if whole and fill.may_store and coming.status == 206 and coming.place is not None:
            self._store_part(fill, coming, coming.place)
        elif whole and fill.may_store:
            self._store(fill, coming.entry(fill.whole()))
        fill.end(broken=False)
        await incoming.done()

    def _store_part(self, fill: Fill, coming: _Coming, place: Place) -> None:
        """RFC 9111 sections 3.3 and 3.4."""
        entry = part(coming.entry(b""), place, fill.whole())
        if fill.route.rules.compress and compression.eligible(200, entry.fields, place.total):
            entry = labelled_as_plain(entry)
        before, _ = self._state.stored(fill.key, fill.head.fields)
        if before is not None:
            if before.parts is None and same_body(before, entry):
                return
            entry = combined(before, entry, fill.route.object_bytes_max)
        self._store(fill, entry)

    def _store_beginning(self, fill: Fill, coming: _Coming) -> None:
        """What came of a whole response before it broke off, when the rest can be asked for (RFC 9111 section 3.3)."""
        length, size = coming.length, fill.size
        sure = partial.strong_validator(coming.fields, coming.times[1])
        if coming.status == 200 and coming.place is None and length is not None and 0 < size < length and sure:
            self._store_part(fill, coming, Place(0, size - 1, length))

    async def _read(self, fill: Fill, incoming: Incoming) -> bool:
        """Reads the body to its end; False when it grew beyond what is stored."""
        state, size_max = self._state, self._storable(fill.route)
        counted = fill.length or 0  # what is known to come has its place
        state.fill_bytes += counted
        kept = True
        try:
            while data := await incoming.connection.read():
                fill.add(data)
                more = max(0, fill.size - counted)
                kept = kept and fill.size <= size_max and (not more or self._room(more))
                if kept:
                    counted += more
                    state.fill_bytes += more
                else:
                    state.fill_bytes -= counted
                    counted = 0
                    state.leave_fill(fill)  # nobody joins any more
                    if not await fill.trim():
                        raise UpstreamError("nobody reads", sent=True, began=True)
        finally:
            state.fill_bytes -= counted
        return kept

    async def _revalidated(self, fill: Fill, incoming: Incoming, stale: StoredResponse) -> None:
        """RFC 9111 section 4.3.4."""
        headers, request = incoming.connection.headers, fill.head.fields
        times = (incoming.request_time, incoming.response_time)
        await incoming.done()
        entry = freshened(stale, headers, *times, request, fill.route.rules, fill.sequence)
        self._state.counters.revalidations_total += 1
        stored = entry.verdict.storable and fill.may_store
        if stored:
            self._store(fill, entry)
        elif entry.verdict.reason not in freshness.REASONS_OF_REQUEST:
            self._state.drop(fill.key, request)
        fill.add(entry.body)
        fill.end(broken=False)
        fill.outcome.set_result(Shared(entry, "revalidated", own_only(headers, entry.verdict), stored))

    def update_by_head(
        self, key: bytes, route: Route, request: RequestHead, before: StoredResponse, incoming: Incoming
    ) -> StoredResponse | None:
        """Brings a stored response up to date by the answer to a HEAD (RFC 9111 section 4.3.5).

        None when it speaks of another response: the stored one is stale then.
        """
        state, fields = self._state, incoming.connection.fields
        if state.stored(key, request.fields)[0] is not before:
            return None  # something has replaced or forgotten it meanwhile
        times = (incoming.request_time, incoming.response_time)
        if conditional.same_response(before, fields):
            headers, rules = incoming.connection.headers, route.rules
            entry = freshened(before, headers, *times, request.fields, rules, before.sequence)
            if entry.verdict.storable:
                state.counters.revalidations_total += 1
                self._keep(key, entry, request.fields)
                return entry
            if entry.verdict.reason in freshness.REASONS_OF_REQUEST:
                return None
        self._keep(key, made_stale(before, times[1]), request.fields)
        return None

    def _keep(self, key: bytes, entry: StoredResponse, request: Fields) -> None:
        variants = self._state.keep(key, entry, request)
        if self._state.tier is not None and entry.parts is None:
            self._state.tier.put(key, entry, variants, request)

    def _store(self, fill: Fill, entry: StoredResponse) -> None:
        if entry.parts is None:
            fill.lend(self._state.loans, entry.body)
        entry.edits = fill.route.http.response
        if not fill.route.http.guards:
            entry.checked = fill.purge_round  # no order that is younger than its fetch was compared with it
        self._keep(fill.key, entry, fill.head.fields)

    async def _hand_over(self, fill: Fill, incoming: Incoming, why: str) -> None:
        """To the client that waits for it; when it has gone, the response is of no use."""
        of_part = bool(fill.part) and why == "too large"
        if why not in _NOT_OF_THE_RESPONSE and why not in freshness.REASONS_OF_REQUEST and not of_part:
            self._state.mark_uncacheable(fill.key)
            if fill.stale is not None and incoming.connection.status not in ERRORS:
                self._state.drop(fill.key, fill.head.fields)
        self._state.leave_fill(fill)
        fill.handed_over = fill.leader in fill.readers
        fill.outcome.set_result(Private(incoming, why))
        if not fill.handed_over:
            await incoming.abandon()


@dataclass(slots=True)
class _Coming:
    """A response whose body is on its way."""

    status: int
    reason: bytes
    headers: HeaderList
    fields: Fields
    verdict: Verdict
    why: str
    """Why it is not stored; empty when it is."""
    times: tuple[float, float]
    rules: CacheRules
    sequence: int
    length: int | None
    """Bytes of the body that clients get; None when that is not known before its end."""
    place: Place | None
    """Where what comes lies in the body."""
    before: bytes = b""
    after: bytes = b""
    """What is stored already of the body, in front of what comes and behind it."""

    @property
    def known_bytes(self) -> int:
        """What is known of the length."""
        return self.length or 0

    def entry(self, body: bytes) -> StoredResponse:
        """The stored form with a body."""
        return make(
            self.status, self.reason, self.headers, body, self.verdict, *self.times, self.rules.keyed, self.sequence
        )


def _coming(fill: Fill, incoming: Incoming, gap: tuple[int, int] | None) -> _Coming:
    """What comes and whether it may be stored: all of a response, a part that was asked for, or the missing rest."""
    connection, rules, stale = incoming.connection, fill.route.rules, fill.stale
    status, reason, headers, fields = connection.status, connection.reason, connection.headers, connection.fields
    times = (incoming.request_time, incoming.response_time)
    length = freshness.delta_seconds(fields.get(b"content-length", b"").decode("latin-1"))
    known = length if b"content-length" in fields else None
    place = partial.placed(status, fields) if fill.part or gap else None
    before = after = b""
    asked = fill.head.fields
    if fill.part or gap:
        asked = {name: value for name, value in asked.items() if name != b"range"}
    if gap is not None and place is not None and stale is not None:
        headers = completed(stale, headers)
        status, reason, fields, known = 200, b"OK", fields_of(headers), place.total
        before = stale.take(0, place.first - 1) or b""
        after = stale.take(place.last + 1, place.total - 1) or b""
    verdict = freshness.judge(b"GET", status if place is None else 200, asked, fields, times[1], rules)
    why = verdict.reason
    if fill.part and (status != 200 if place is None else length not in (None, place.size)):
        why = "range"
    if not why and vary.names(fields.get(b"vary")) is None:
        why = "vary"
    return _Coming(
        status, reason, headers, fields, verdict, why, times, rules, fill.sequence, known, place, before, after
    )


def _completes(stale: StoredResponse, gap: tuple[int, int], incoming: Incoming) -> bool:
    """Whether the answer to a request for the rest can be taken: the rest of this very body, or a new one."""
    fields = incoming.connection.fields
    place = partial.placed(incoming.connection.status, fields)
    if place is None:
        return incoming.connection.status not in (206, 304, 416)
    ours = partial.strong_validator(stale.fields, stale.response_time)
    theirs = fields.get(b"etag", b"") or fields.get(b"last-modified", b"") or ours
    return (place.first, place.last, place.total) == (*gap, stale.size) and theirs == ours


def _retrieved(future: asyncio.Future[Shared | Private]) -> None:
    """An outcome that nobody waits for any more is no error."""
    if not future.cancelled():
        future.exception()
