"""One fetch that fills the cache, from which any number of clients read while it runs.

It belongs to no client: one that leaves, or reads slowly, changes nothing for the others. What may not be shared is
handed to the client for whom the fetch was begun; the others fetch for themselves.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from agent.edge.core import conditional, vary
from agent.edge.core.entry import StoredResponse
from agent.edge.core.headers import Fields, HeaderList, Origin
from agent.edge.core.request_head import RequestHead
from agent.edge.core.routing import Route
from agent.edge.fetcher import Incoming
from agent.edge.loans import Loans
from agent.edge.upstream import Early

WINDOW_BYTES: Final = 1024 * 1024
LAG_S: Final = 10.0
"""While others wait for more, a reader takes a window of the body in so long, or is left behind."""
READ_BYTES: Final = 256 * 1024
"""A reader who is behind gets about so much at a time."""


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

    __slots__ = ("_fill", "behind", "position", "taken_bytes")

    def __init__(self, fill: Fill):
        self._fill = fill
        self.position = 0
        self.taken_bytes = 0
        self.behind = False
        """It was too slow for the others: it gets no more."""

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
        part: bytes,
    ):
        self.key = key
        self.part = part
        """What of it is wanted, when that is one range; empty for all."""
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
        self.early: Early | None = None
        """Who passes interim responses on to the client for whom the fetch was begun."""
        self.recalled = False
        self.length: int | None = None
        self.readers: set[Reader] = set()
        self.leader: Reader | None = None
        self._base = 0
        self._producer: asyncio.Future[None] | None = None
        self._measured_at = -LAG_S
        self._taken: dict[Reader, int] = {}
        """What each had had when that was measured."""
        self._chunks: list[bytes | memoryview] = []
        self._bytes = 0
        self._done = False
        self._broken = False
        self._waiters: set[asyncio.Future[None]] = set()
        self._loans: Loans | None = None
        self._lent = b""
        self._loan = 0

    def fits(self, request: Fields) -> bool:
        """Whether the shared response is the one for this request too (RFC 9111 section 4.1)."""
        outcome = self.outcome.result()
        if not isinstance(outcome, Shared):
            return False
        if outcome.entry.parts is not None and not conditional.answers(request, outcome.entry):
            return False
        names = outcome.entry.vary
        return vary.secondary(names, request) == vary.secondary(names, self.head.fields)

    def suffices(self, entry: StoredResponse) -> bool:
        """Whether what is there of a stored response is enough for what is wanted."""
        return entry.parts is None or (bool(self.part) and conditional.answers(self.head.fields, entry))

    def join(self) -> Reader:
        """Someone waits for the outcome and the body."""
        reader = Reader(self)
        self.readers.add(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """Someone has all, or has gone."""
        self.readers.discard(reader)
        self._taken.pop(reader, None)
        if reader is self.leader:
            self.leader = self.early = None  # each holds the other
        self._wake_producer()
        if self._loans is not None and not self.readers:
            self._loans.back(self._loan, self._lent)
            self._loans = None

    def lend(self, loans: Loans, body: bytes) -> None:
        """Counts the body that is whole for as long as someone reads it here."""
        if self.readers and len(body) > READ_BYTES:
            self._loans, self._lent = loans, body
            self._loan = loans.take(body)

    def available(self, reader: Reader) -> bool:
        """Whether there is something that the reader has not had, or an end."""
        return self._done or self._broken or reader.behind or reader.position < self._base + len(self._chunks)

    async def next(self, reader: Reader) -> bytes:
        """What the reader has not had; b"" at the end. Raises FillBroken when there will be no end."""
        while reader.behind or reader.position >= self._base + len(self._chunks):
            if self._broken or reader.behind:
                raise FillBroken
            if self._done:
                return b""
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        first = last = reader.position - self._base
        size = 0
        while last < len(self._chunks) and (not size or size + len(self._chunks[last]) <= READ_BYTES):
            size += len(self._chunks[last])
            last += 1
        data = b"".join(self._chunks[first:last])
        reader.position = self._base + last
        reader.taken_bytes += size
        self._wake_producer()
        return data

    async def trim(self) -> bool:
        """For a body that is too large to be kept: forgets what all have read, and waits for the slowest.

        One that takes hardly anything while others wait for more is left behind. False when nobody reads any more.
        """
        loop = asyncio.get_running_loop()
        while self.readers:
            low = min(reader.position for reader in self.readers)
            del self._chunks[: low - self._base]
            self._base = low
            if sum(map(len, self._chunks)) <= WINDOW_BYTES:
                return True
            now = loop.time()
            if now - self._measured_at > LAG_S:
                self._leave_behind()
                self._measured_at = now
                self._taken = {reader: reader.taken_bytes for reader in self.readers}
            self._producer = loop.create_future()
            await asyncio.wait((self._producer,), timeout=LAG_S)
        return False

    def _leave_behind(self) -> None:
        head = self._base + len(self._chunks)
        if not any(reader.position == head for reader in self.readers):
            return  # nobody waits for more
        for reader in list(self.readers):
            taken = reader.taken_bytes - self._taken.get(reader, -WINDOW_BYTES)
            if reader.position != head and taken < WINDOW_BYTES:
                reader.behind = True
                self.readers.discard(reader)

    def _wake_producer(self) -> None:
        if self._producer is not None and not self._producer.done():
            self._producer.set_result(None)

    def add(self, data: bytes) -> None:
        """More of the body."""
        if len(data) <= READ_BYTES:
            self._chunks.append(data)
        else:
            view = memoryview(data)
            self._chunks += [view[at : at + READ_BYTES] for at in range(0, len(data), READ_BYTES)]
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
        """The body; from now on readers read it, not a copy of their own."""
        body, at = b"".join(self._chunks), 0
        if len(body) <= READ_BYTES:
            return body
        view = memoryview(body)
        for number, chunk in enumerate(self._chunks):
            self._chunks[number] = view[at : at + len(chunk)]
            at += len(chunk)
        return body

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
