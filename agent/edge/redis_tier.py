"""The second tier of the cache in the region's Redis or Valkey.

Nothing that Redis does can fail a request: reads have a tight deadline, writes go through a bounded queue, and after a
few failures in a row a breaker leaves it alone for a while. What it holds is checked before it is believed.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from agent.edge import quick
from agent.edge.core import entry_codec, resp
from agent.edge.core.entry import StoredResponse, Variants
from agent.edge.core.entry_codec import Striped
from agent.edge.core.headers import Fields
from agent.edge.counters import Counters
from agent.edge.ports import Found
from agent.edge.redis_region import Connect
from fleet.backoff import Backoff
from fleet.clock import Clock

PREFIX: Final = b"locci:c1:"
QUEUE_BYTES_MAX: Final = 16 * 1024 * 1024
QUEUE_MAX: Final = 256
WRITES_AT_ONCE: Final = 16
VALUE_BYTES_MAX: Final = 12 * 1024 * 1024
KEEP_S_MAX: Final = 24 * 3600
FAILURES_MAX: Final = 3
WRITE_TIMEOUT_S: Final = 1.0
_BACKOFF: Final = Backoff(0.5, 15.0)
_NOT_MASTER: Final = ("READONLY", "MASTERDOWN", "LOADING")
"""What a server says after a failover that its clients have not noticed."""
Decoded = StoredResponse | Variants | None
Waiting = tuple[Fields, Callable[[Found | None], None], Variants | None]
"""The request's fields, who is told, and the marker that has led here."""
_GET: Final = resp.get(PREFIX + b"0" * 64).replace(b"0" * 64, b"%b")


@dataclass(slots=True)
class Breaker:
    """Open for a while after failures in a row; then one try decides. Times are monotonic seconds."""

    failures: int = 0
    opened: int = 0
    open_until: float = 0.0

    def allows(self, now: float) -> bool:
        """Whether to try."""
        return now >= self.open_until

    def succeeded(self) -> None:
        """It works."""
        self.failures = self.opened = 0

    def failed(self, now: float, randomness: float) -> None:
        """It does not. What was asked before it opened and fails after that says nothing new."""
        self.failures += 1
        if self.failures >= FAILURES_MAX and self.allows(now):
            # At least half of the ceiling: a breaker that closes at once is none.
            self.open_until = now + _BACKOFF.ceiling_s(self.opened) * (0.5 + randomness / 2)
            self.opened += 1


@dataclass(frozen=True, slots=True)
class _Write:
    key: bytes
    value: bytes | None
    """None removes the key."""
    keep_ms: int = 0

    def command(self) -> bytes:
        name = _name(self.key)
        return resp.command(b"DEL", name) if self.value is None else resp.put(name, self.value, self.keep_ms)

    @property
    def size(self) -> int:
        return len(self.value or b"")


def _name(key: bytes) -> bytes:
    return PREFIX + hashlib.sha256(key).hexdigest().encode()


class RedisTier:
    """Implements `ports.SecondTier`: one connection to read, one to write, so that no large write delays a read."""

    def __init__(self, connect: Connect, timeout_s: float, clock: Clock, rng: random.Random, counters: Counters):
        self._now = clock.monotonic
        self._wall = clock.wall
        self._rng = rng
        self._counters = counters
        self._breaker = Breaker()
        self._reader = connect(timeout_s)
        self._writer = connect(WRITE_TIMEOUT_S)
        self._asked: dict[bytes, list[Waiting]] = {}
        """Who waits for what lies under a key: all that ask at once share one command."""
        self._queue: deque[_Write] = deque()
        self._queued_bytes = 0
        self._writing = 0

    # ---- reading

    def ask(self, key: bytes, request: Fields, answered: Callable[[Found | None], None]) -> bool:
        if self._breaker.failures and not self._breaker.allows(self._now()):
            self._counters.tier_skipped_total += 1
            return False
        self._read(key, (request, answered, None))
        return True

    async def get(self, key: bytes, request: Fields) -> Found | None:
        future: asyncio.Future[Found | None] = asyncio.get_running_loop().create_future()

        def answered(found: Found | None) -> None:
            if not future.done():
                future.set_result(found)

        return await future if self.ask(key, request, answered) else None

    def _read(self, key: bytes, waits: Waiting) -> None:
        waiting = self._asked.get(key)
        if waiting is not None:
            waiting.append(waits)
            return
        self._asked[key] = [waits]
        name = hashlib.sha256(key).hexdigest().encode()
        self._reader.ask(_GET % name, functools.partial(self._came, key))

    def _came(self, key: bytes, reply: Any) -> None:
        if type(reply) is not bytes:
            self._works(reply)
            self._give(key, None)
            return
        if self._breaker.failures:
            self._breaker.succeeded()
        found = quick.decode(key, reply) if quick.decode is not None else None
        if found is None:
            self._understand(key, reply)
            return
        for _, answered, variants in self._asked.pop(key):
            answered((found, variants))

    def _understand(self, key: bytes, data: bytes) -> None:
        """Sees to what is not simply a whole entry without variants."""
        found = entry_codec.decode(key, data)
        if isinstance(found, Striped):
            self._gather(key, found.keys(key), [])
            return
        self._counters.tier_garbage_total += found is None
        self._give(key, found)

    def _give(self, key: bytes, found: Decoded) -> None:
        for request, answered, variants in self._asked.pop(key):
            if isinstance(found, Variants) and variants is None:
                self._read(found.key(key, request), (request, answered, found))
            else:
                answered((found, variants) if isinstance(found, StoredResponse) else None)

    def _gather(self, key: bytes, stripes: list[bytes], parts: list[bytes]) -> None:
        """Reads a value that lies in stripes, one after the other: each has the time of a whole small value."""

        def came(reply: Any) -> None:
            if not self._works(reply) or not isinstance(reply, bytes):
                self._give(key, None)
                return
            parts.append(reply)
            if len(parts) < len(stripes):
                self._gather(key, stripes, parts)
                return
            found = entry_codec.decode(key, b"".join(parts))
            if found is None or isinstance(found, Striped):
                self._counters.tier_garbage_total += 1
                found = None
            self._give(key, found)

        self._reader.ask(resp.get(_name(stripes[len(parts)])), came)

    # ---- writing

    def put(self, key: bytes, entry: StoredResponse, variants: Variants | None, request: Fields) -> None:
        now = self._wall()
        keep_s = entry.useful_until - now
        if entry.etag or entry.last_modified:
            keep_s = max(keep_s, 0) + 60.0  # validation brings it back for the price of a 304
        if keep_s < 1 or len(entry.body) > VALUE_BYTES_MAX:
            return
        keep_ms = int(min(keep_s, KEEP_S_MAX) * 1000)
        own = key if variants is None else variants.key(key, request)
        nonce = b"%016x" % self._rng.getrandbits(64)
        writes = [
            _Write(at, value, keep_ms) for at, value in entry_codec.divide(own, entry_codec.encode(own, entry), nonce)
        ]
        if variants is not None:
            writes.append(_Write(key, entry_codec.encode_marker(key, variants), KEEP_S_MAX * 1000))
        self._enqueue(writes)

    def remove(self, key: bytes) -> None:
        self._enqueue([_Write(key, None)])

    def _enqueue(self, writes: list[_Write]) -> None:
        """All of them or none."""
        size = sum(write.size for write in writes)
        waiting = len(self._queue) + self._writing + len(writes)
        full = waiting > QUEUE_MAX or self._queued_bytes + size > QUEUE_BYTES_MAX
        if full or not self._breaker.allows(self._now()):
            self._counters.tier_skipped_total += 1
            return
        self._queue.extend(writes)
        self._queued_bytes += size
        self._write()

    def _write(self) -> None:
        """In order, so that what was removed after it was written stays removed."""
        while self._queue and self._writing < WRITES_AT_ONCE:
            write = self._queue.popleft()
            self._writing += 1
            self._writer.ask(write.command(), functools.partial(self._written, write.size))

    def _written(self, size: int, reply: Any) -> None:
        self._writing -= 1
        self._queued_bytes -= size
        self._works(reply)
        self._write()

    # ----

    def _works(self, reply: Any) -> bool:
        """Whether a reply is one; what is none opens the breaker in the end."""
        if not isinstance(reply, Exception):
            self._breaker.succeeded()
            return True
        self._counters.tier_errors_total += 1
        self._breaker.failed(self._now(), self._rng.random())
        if str(reply).startswith(_NOT_MASTER):
            self._reader.reset("it is no master any more")
            self._writer.reset("it is no master any more")
        return False

    async def close(self) -> None:
        self._queue.clear()
        await self._reader.close()
        await self._writer.close()
