"""Clients over UDP that keep so many questions under way, from a thread, and count what becomes of them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import select
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable

import dns.message

Make = Callable[[random.Random], bytes]
"""A query; its first two bytes are written anew."""


def named(name: str, kind: str = "A") -> Make:
    """Always the same question."""
    query = dns.message.make_query(name, kind).to_wire()
    return lambda _: query


def made_up(origin: str) -> Make:
    """A name below `origin` that nobody has asked for before."""
    query = dns.message.make_query(f"{'x' * 12}.{origin}", "A").to_wire()
    return lambda rng: query[:13] + rng.randbytes(6).hex().encode() + query[25:]


class Load:
    """Asks until it is stopped; a question is lost when it was not answered within `patience_s`."""

    def __init__(self, port: int, make: Make, *, source: str = "127.0.0.1", window: int = 16, patience_s: float = 5.0):
        self.asked = self.answered = self.lost = 0
        self.rcodes: dict[int, int] = {}
        self._make, self._window, self._patience_s = make, window, patience_s
        self._stop = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((source, 0))
        self._socket.connect(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        rng, under_way, number = random.Random(1), dict[bytes, float](), 0
        while not self._stop.is_set() or under_way:
            now = time.monotonic()
            while len(under_way) < self._window and not self._stop.is_set():
                number = (number + 1) % 65_536
                key = number.to_bytes(2, "big")
                under_way[key] = now
                self._socket.send(key + self._make(rng)[2:])
                self.asked += 1
            if select.select([self._socket], (), (), 0.05)[0]:
                with contextlib.suppress(OSError):
                    answer = self._socket.recv(4096)
                    if under_way.pop(answer[:2], None) is not None:
                        self.answered += 1
                        self.rcodes[answer[3] & 15] = self.rcodes.get(answer[3] & 15, 0) + 1
            for key in [key for key, since in under_way.items() if now - since > self._patience_s]:
                del under_way[key]
                self.lost += 1

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        """Asks until the end of the block, and then waits for what is under way."""
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            await asyncio.to_thread(self._thread.join)
            self._socket.close()
