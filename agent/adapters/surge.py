"""Faults of traffic: this host sends so many requests a second to edges elsewhere. They end with the agent."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Sequence
from typing import Final

from agent.adapters.fetch import fetch_status

_AT_ONCE_MAX: Final = 256
_REQUEST_S: Final = 3.0
_TICK_S: Final = 0.02
_BURST_PER_S: Final = 5
_END_S: Final = 5.0


class Surge:
    """Sends requests from a thread of its own, so that the agent's loop is not held up. Begins and ends are quick."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self.sent = 0
        """Requests so far."""
        self.failed = 0
        """Those without an answer, or with a status of 500 or more."""
        self.skipped = 0
        """Those that were not sent, for too many were waiting for their answers."""

    def begin(self, addresses: Sequence[str], hostname: str, requests_per_second: int) -> None:
        """Sends them until `end`."""
        self.end()
        self.sent = self.failed = self.skipped = 0
        self._over = threading.Event()
        arguments = (list(addresses), hostname, requests_per_second, self._over)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._send(*arguments)), daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Nothing is sent any more; that nothing was is fine."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(_END_S)
            self._thread = None

    async def _send(self, addresses: list[str], hostname: str, rate: int, over: threading.Event) -> None:
        loop = asyncio.get_running_loop()
        turns, going, began, due = itertools.cycle(addresses), set[asyncio.Task[None]](), loop.time(), 0
        while not over.is_set():
            wanted = int((loop.time() - began) * rate)
            # What a busy host is late with is not sent in one burst.
            for _ in range(min(wanted - due, max(1, rate // _BURST_PER_S))):
                if len(going) >= _AT_ONCE_MAX:
                    self.skipped += 1
                    continue
                task = loop.create_task(self._request(next(turns), hostname))
                going.add(task)
                task.add_done_callback(going.discard)
            due = wanted
            await asyncio.sleep(_TICK_S)
        for task in going:
            task.cancel()

    async def _request(self, address: str, hostname: str) -> None:
        self.sent += 1
        try:
            async with asyncio.timeout(_REQUEST_S):
                status = await fetch_status(address, hostname)
            # Only now: what `+=` reads before it waits is stale after that.
            self.failed += status >= 500
        except (OSError, EOFError, ValueError, TimeoutError):
            self.failed += 1
