"""A clock that tests move by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools


class ManualClock:
    """Virtual time. `advance` wakes sleepers in the order of their deadlines and lets each run before the next."""

    def __init__(self, wall: float = 1_750_000_000.0):
        self._now = 0.0
        self._wall = wall
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._wall + self._now

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Moves time on by `seconds`."""
        end = self._now + seconds
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self._now, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
            await self._settle()
        self._now = end

    async def _settle(self) -> None:
        """Lets every task that can run do so."""
        for _ in range(20):
            await asyncio.sleep(0)
