"""The second tier of the cache in the region's Redis or Valkey.

Nothing that Redis does can fail a request: reads have a tight deadline, writes go through a bounded queue, and after a
few failures in a row a breaker leaves it alone for a while. What it holds is checked before it is believed.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from dataclasses import dataclass
from typing import Final

import redis.asyncio as redis_client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from agent.edge.core import entry_codec
from agent.edge.core.entry import StoredResponse, Variants
from agent.edge.core.entry_codec import Striped
from agent.edge.core.headers import Fields
from agent.edge.counters import Counters
from fleet.backoff import Backoff
from fleet.clock import Clock

PREFIX: Final = b"locci:c1:"
QUEUE_BYTES_MAX: Final = 16 * 1024 * 1024
QUEUE_MAX: Final = 256
VALUE_BYTES_MAX: Final = 12 * 1024 * 1024
KEEP_S_MAX: Final = 24 * 3600
FAILURES_MAX: Final = 3
WRITE_TIMEOUT_S: Final = 1.0
_BACKOFF: Final = Backoff(0.5, 15.0)


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
        """It does not."""
        self.failures += 1
        if self.failures >= FAILURES_MAX:
            # At least half of the ceiling: a breaker that closes at once is none.
            self.open_until = now + _BACKOFF.ceiling_s(self.opened) * (0.5 + randomness / 2)
            self.opened += 1


@dataclass(frozen=True, slots=True)
class _Write:
    key: bytes
    value: bytes | None
    """None removes the key."""
    keep_ms: int = 0


def _name(key: bytes) -> bytes:
    return PREFIX + hashlib.sha256(key).hexdigest().encode()


class RedisTier:
    """Implements `ports.SecondTier` over redis-py."""

    def __init__(self, url: str, timeout_s: float, clock: Clock, rng: random.Random, counters: Counters):
        self._timeout_s = timeout_s
        self._clock = clock
        self._rng = rng
        self._counters = counters
        self._breaker = Breaker()
        self._queue: asyncio.Queue[_Write] = asyncio.Queue(QUEUE_MAX)
        self._queued_bytes = 0
        self._reader = self._client(url, timeout_s, 32)
        self._writer = self._client(url, WRITE_TIMEOUT_S, 2)
        self._task = asyncio.get_running_loop().create_task(self._write_all())

    @staticmethod
    def _client(url: str, timeout_s: float, connections: int) -> redis_client.Redis:
        return redis_client.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            max_connections=connections,
            retry=Retry(NoBackoff(), 0),
        )

    async def get(self, key: bytes, request: Fields) -> tuple[StoredResponse, Variants | None] | None:
        if not self._breaker.allows(self._clock.monotonic()):
            self._counters.tier_skipped_total += 1
            return None
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                found = await self._read(key, limit)
                variants = None
                if isinstance(found, Variants):
                    variants = found
                    found = await self._read(variants.key(key, request), limit)
        except (RedisError, OSError, TimeoutError):
            self._failed()
            return None
        self._breaker.succeeded()
        return (found, variants) if isinstance(found, StoredResponse) else None

    async def _read(self, key: bytes, limit: asyncio.Timeout) -> StoredResponse | Variants | None:
        data = await self._reader.get(_name(key))
        if not isinstance(data, bytes):
            return None
        decoded = entry_codec.decode(key, data)
        if isinstance(decoded, Striped):
            data = await self._gather(decoded.keys(key), limit)
            if data is None:
                return None
            decoded = entry_codec.decode(key, data)
        if decoded is None or isinstance(decoded, Striped):
            self._counters.tier_garbage_total += 1
            return None
        return decoded

    async def _gather(self, keys: list[bytes], limit: asyncio.Timeout) -> bytes | None:
        """The value that lies in stripes; None when one is gone. Each of them has the time of a whole small value."""
        parts: list[bytes] = []
        for key in keys:
            limit.reschedule(asyncio.get_running_loop().time() + self._timeout_s)
            part = await self._reader.get(_name(key))
            if not isinstance(part, bytes):
                return None
            parts.append(part)
        return b"".join(parts)

    def put(self, key: bytes, entry: StoredResponse, variants: Variants | None, request: Fields) -> None:
        now = self._clock.wall()
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
        size = sum(len(write.value or b"") for write in writes)
        full = self._queue.qsize() + len(writes) > QUEUE_MAX or self._queued_bytes + size > QUEUE_BYTES_MAX
        if full or not self._breaker.allows(self._clock.monotonic()):
            self._counters.tier_skipped_total += 1
            return
        for write in writes:
            self._queue.put_nowait(write)
        self._queued_bytes += size

    async def _write_all(self) -> None:
        while True:
            write = await self._queue.get()
            self._queued_bytes -= len(write.value or b"")
            try:
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    if write.value is None:
                        await self._writer.delete(_name(write.key))
                    else:
                        await self._writer.set(_name(write.key), write.value, px=write.keep_ms)
            except (RedisError, OSError, TimeoutError):
                self._failed()
            else:
                self._breaker.succeeded()

    def _failed(self) -> None:
        self._counters.tier_errors_total += 1
        self._breaker.failed(self._clock.monotonic(), self._rng.random())

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for client in (self._reader, self._writer):
            try:
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    await client.aclose()
            except (RedisError, OSError, TimeoutError):
                self._counters.tier_errors_total += 1
