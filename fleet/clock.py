"""Time as an argument: cores take numbers, shells take a `Clock`."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where a shell gets its time from."""

    def monotonic(self) -> float:
        """Seconds that only rise; for deadlines and durations."""
        ...

    def wall(self) -> float:
        """Seconds since 1970 UTC; for timestamps that people see. It may jump."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Returns after `seconds` of the monotonic clock."""
        ...


class SystemClock:
    """The machine's clocks."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
