"""One fetch that fills the cache, from which any number of clients read while it runs.

It belongs to no client: one that leaves, or reads slowly, changes nothing for the others. What may not be shared is
handed to the client for whom the fetch was begun; the others fetch for themselves.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from agent.edge.core import compression, conditional, freshness, vary
from agent.edge.core.entry import StoredResponse, coded, freshened, make, own_only
from agent.edge.core.headers import Fields, HeaderList, Origin
from agent.edge.core.request_head import CONDITIONS, Refused, RequestHead
from agent.edge.core.routing import Route
from agent.edge.fetcher import Fetcher, Incoming, outgoing
from agent.edge.state import EdgeState
from agent.edge.upstream import UpstreamError

DROPPED: Final = frozenset((*CONDITIONS, b"cache-control"))
# RFC 5861 section 4.
ERRORS: Final = frozenset((500, 502, 503, 504))
WINDOW_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Shared:
    """The response is `entry`, whose body is read from the fill while it comes, or is whole already."""

    entry: StoredResponse
    how: str
    """stored, second-tier, revalidated or stale."""
    own: HeaderList = field(default_factory=list)
    """Fields for the client only for whom the fetch was begun."""
    for_all: bool = True
    """False when only that client may have it."""


@dataclass(frozen=True, slots=True)
class Private:
    """The response may not be shared."""

    incoming: Incoming
    why: str


class FillBroken(Exception):  # noqa: N818
    """The endpoint broke off in the middle of the body."""


class Reader:
    """One client's place in a fill."""

    __slots__ = ("_fill", "position")

    def __init__(self, fill: Fill):
        self._fill = fill
        self.position = 0

    @property
    def available(self) -> bool:
        """Whether `read` would not wait."""
        return self._fill.available(self)

    async def read(self) -> bytes:
        """The next bytes; b"" at the end. Raises FillBroken."""
        return await self._fill.next(self)


class Fill:
    """The fetch for one primary key."""

    def __init__(
        self,
        key: bytes,
        route: Route,
        head: RequestHead,
        origin: Origin,
        stale: StoredResponse | None,
        stale_if_error_s: int,
    ):
        self.key = key
        self.route = route
        self.head = head
        self.origin = origin
        self.stale = stale
        self.stale_if_error_s = stale_if_error_s
        self.may_store = True
        self.outcome: asyncio.Future[Shared | Private] = asyncio.get_running_loop().create_future()
        self.sequence = route.purges.sequence
        self.purge_round = -1
        self.handed_over = False
        self.recalled = False
        self.length: int | None = None
        self.readers: set[Reader] = set()
        self.leader: Reader | None = None
        self._base = 0
        self._producer: asyncio.Future[None] | None = None
        self._chunks: list[bytes] = []
        self._bytes = 0
        self._done = False
        self._broken = False
        self._waiters: set[asyncio.Future[None]] = set()

    def fits(self, request: Fields) -> bool:
        """Whether the shared response is the one for this request too (RFC 9111 section 4.1)."""
        outcome = self.outcome.result()
        if not isinstance(outcome, Shared):
            return False
        names = outcome.entry.vary
        return vary.secondary(names, request) == vary.secondary(names, self.head.fields)

    def join(self) -> Reader:
        """Someone waits for the outcome and the body."""
        reader = Reader(self)
        self.readers.add(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """Someone has all, or has gone."""
        self.readers.discard(reader)
        self._wake_producer()

    def available(self, reader: Reader) -> bool:
        """Whether there is something that the reader has not had, or an end."""
        return self._done or self._broken or reader.position < self._base + len(self._chunks)

    async def next(self, reader: Reader) -> bytes:
        """What the reader has not had; b"" at the end. Raises FillBroken when there will be no end."""
        while reader.position >= self._base + len(self._chunks):
            if self._broken:
                raise FillBroken
            if self._done:
                return b""
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        data = b"".join(self._chunks[reader.position - self._base :])
        reader.position = self._base + len(self._chunks)
        self._wake_producer()
        return data

    async def trim(self) -> bool:
        """For a body that is too large to be kept: forgets what all have read, and waits for the slowest.

        False when nobody reads any more.
        """
        while self.readers:
            low = min(reader.position for reader in self.readers)
            del self._chunks[: low - self._base]
            self._base = low
            if sum(map(len, self._chunks)) <= WINDOW_BYTES:
                return True
            self._producer = asyncio.get_running_loop().create_future()
            await self._producer
        return False

    def _wake_producer(self) -> None:
        if self._producer is not None and not self._producer.done():
            self._producer.set_result(None)

    def add(self, data: bytes) -> None:
        """More of the body."""
        self._chunks.append(data)
        self._bytes += len(data)
        self._wake()

    def end(self, *, broken: bool) -> None:
        """No more will come."""
        self._done, self._broken = True, broken
        self._wake()

    @property
    def size(self) -> int:
        """Bytes of the body so far."""
        return self._bytes

    def whole(self) -> bytes:
        """The body."""
        return b"".join(self._chunks)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


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
        *,
        recalled: bool = False,
    ) -> Fill | None:
        """A fetch for the key, at first from the second tier unless that was `recalled` in vain.

        None when fetches hold as much memory as they may.
        """
        if self._state.fill_bytes > self._state.settings.ram_cache_bytes:
            return None
        fill = Fill(key, route, head, origin, stale, stale_if_error_s)
        fill.purge_round = self._state.purge_round
        fill.recalled = recalled
        fill.outcome.add_done_callback(_retrieved)
        self._state.fills[key] = fill
        self._state.counters.fills_total += 1
        task = asyncio.create_task(self._run(fill))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return fill

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
                fill.outcome.set_exception(refusal)
        finally:
            if not fill.outcome.done():
                fill.outcome.set_exception(Refused(503, "the edge is stopping", close=True))
            self._forget(fill)

    def _forget(self, fill: Fill) -> None:
        if self._state.fills.get(fill.key) is fill:
            del self._state.fills[fill.key]

    async def _from_second_tier(self, fill: Fill) -> bool:
        state = self._state
        if state.tier is None or fill.stale is not None or fill.recalled:
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
        """stale-if-error (RFC 5861 section 4), never against no-cache or must-revalidate (RFC 9111 section 5.2.2)."""
        stale, now = fill.stale, self._state.clock.wall()
        if stale is None or stale.verdict.validate_always:
            return False
        bound = 0 if stale.verdict.must_revalidate else fill.stale_if_error_s
        if not -stale.ttl_s(now) < max(stale.verdict.stale_if_error_s, bound):
            return False
        self._state.counters.stale_served_total += 1
        self._settle(fill, stale, "stale")
        return True

    async def _from_endpoint(self, fill: Fill) -> None:
        request = outgoing(fill.head, fill.origin, None, drop=DROPPED)
        request.method = b"GET"
        plain = request.headers
        if fill.stale is not None:
            request.headers = plain + conditional.validators(fill.stale)
        incoming = await self._fetcher.fetch(fill.route, request)
        if incoming.connection.status == 304 and fill.stale is not None:
            if conditional.selects(fill.stale, incoming.connection.fields):
                await self._revalidated(fill, incoming, fill.stale)
                return
            # RFC 9111 section 4.3.4: it speaks of something that is not stored here.
            await incoming.abandon()
            self._state.drop(fill.key, fill.head.fields)
            fill.stale = None
            request.headers = plain
            incoming = await self._fetcher.fetch(fill.route, request)
        try:
            await self._take(fill, incoming)
        except BaseException:
            if not fill.handed_over:
                await incoming.abandon()
            raise

    async def _take(self, fill: Fill, incoming: Incoming) -> None:
        connection, route = incoming.connection, fill.route
        if connection.status in ERRORS and self._use_stale(fill):
            await incoming.abandon()
            return
        fields, headers = connection.fields, connection.headers
        times = (incoming.request_time, incoming.response_time)
        verdict = freshness.judge(b"GET", connection.status, fill.head.fields, fields, times[1], route.rules)
        length = freshness.delta_seconds(fields.get(b"content-length", b"").decode("latin-1"))
        why = verdict.reason
        if not why and (length or 0) > route.object_bytes_max:
            why = "too large"
        if not why and vary.names(fields.get(b"vary")) is None:
            why = "vary"
        if why or not fill.may_store:
            await self._hand_over(fill, incoming, why or "invalidated")
            return
        fill.length = length if b"content-length" in fields else None
        status, reason, keyed = connection.status, connection.reason, route.rules.keyed
        entry = make(status, reason, headers, b"", verdict, *times, keyed, fill.sequence)
        fill.outcome.set_result(Shared(entry, "stored", own_only(headers, verdict)))
        try:
            whole = await self._read(fill, incoming)
        except UpstreamError:
            self._state.counters.truncated_total += 1
            fill.end(broken=True)
            await incoming.abandon()
            return
        if whole and route.rules.compress and compression.eligible(status, fields, fill.size):
            fill.end(broken=False)  # nobody waits for the compressor
            await incoming.done()
            plain = make(status, reason, headers, fill.whole(), verdict, *times, keyed, fill.sequence)
            coding = compression.choose(fill.head.fields.get(b"accept-encoding"))
            entry = await asyncio.to_thread(coded, plain, coding)
            if fill.may_store:
                self._store(fill, entry)
            return
        if whole and fill.may_store:
            self._store(fill, make(status, reason, headers, fill.whole(), verdict, *times, keyed, fill.sequence))
        fill.end(broken=False)
        await incoming.done()

    async def _read(self, fill: Fill, incoming: Incoming) -> bool:
        """Reads the body to its end; False when it grew beyond what is stored."""
        state, size_max = self._state, fill.route.object_bytes_max
        counted = 0
        try:
            while data := await incoming.connection.read():
                fill.add(data)
                if fill.size <= size_max:
                    counted += len(data)
                    state.fill_bytes += len(data)
                else:
                    self._forget(fill)  # nobody joins any more
                    if not await fill.trim():
                        raise UpstreamError("nobody reads", sent=True, began=True)
        finally:
            state.fill_bytes -= counted
        return fill.size <= size_max

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

    def _store(self, fill: Fill, entry: StoredResponse) -> None:
        entry.checked = fill.purge_round  # no order that is younger than its fetch was compared with it
        variants = self._state.keep(fill.key, entry, fill.head.fields)
        if self._state.tier is not None:
            self._state.tier.put(fill.key, entry, variants, fill.head.fields)

    async def _hand_over(self, fill: Fill, incoming: Incoming, why: str) -> None:
        """To the client that waits for it; when it has gone, the response is of no use."""
        if why != "invalidated" and why not in freshness.REASONS_OF_REQUEST:
            self._state.mark_uncacheable(fill.key)
            if fill.stale is not None:
                self._state.drop(fill.key, fill.head.fields)
        self._forget(fill)
        fill.handed_over = fill.leader in fill.readers
        fill.outcome.set_result(Private(incoming, why))
        if not fill.handed_over:
            await incoming.abandon()


def _retrieved(future: asyncio.Future[Shared | Private]) -> None:
    """An outcome that nobody waits for any more is no error."""
    if not future.cancelled():
        future.exception()
