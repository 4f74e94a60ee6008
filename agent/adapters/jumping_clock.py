"""The clock that an agent lives by, which a drill can make jump.

The host's own clock is left alone: every program on it, its TLS and its logs live by that, other software would move it
back, and an agent that is dead could not. What an agent does by the clock it does by this one: its certificate, the
time in its heartbeats, its timestamps. The time limits of faults do not hang on it.
"""

from __future__ import annotations

import asyncio
import time


class JumpingClock:
    """The machine's clocks, with an offset between them and this one's wall clock."""

    def __init__(self) -> None:
        self.offset_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time() + self.offset_s

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
