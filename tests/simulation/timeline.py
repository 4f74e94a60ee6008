"""Virtual time: what is to happen, in its order. Nothing waits, so that an hour passes in a second."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Awaitable, Callable

Action = Callable[[], Awaitable[None] | None]


class Timeline:
    """Actions by their time; those of the same time in the order in which they were asked for."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self._due: list[tuple[float, int, Action]] = []
        self._order = itertools.count()

    def at(self, time: float, action: Action) -> None:
        """Does something at a time; one that is over is taken for now."""
        heapq.heappush(self._due, (max(time, self.now), next(self._order), action))

    def run(self, seconds: float) -> None:
        """Lets time pass; no action may have anything to await."""
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            self.now, _, action = heapq.heappop(self._due)
            action()
        self.now = end

    async def play(self, seconds: float) -> None:
        """Lets time pass, and awaits what actions give to await; none is begun meanwhile."""
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            self.now, _, action = heapq.heappop(self._due)
            awaited = action()
            if awaited is not None:
                await awaited
        self.now = end
