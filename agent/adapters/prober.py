"""Probes of containers over HTTP and TCP: one task for each container and purpose."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Final

from agent.core.messages import Event, ProbeFailed, ProbeSucceeded, StartProbing
from agent.core.model import Probe, Purpose
from fleet.clock import Clock

EAGER_FIRST_S: Final = 0.05
EAGER_GROWTH: Final = 1.3
BODY_BYTES_MAX: Final = 64 * 1024


class Prober:
    """Asks, and posts each answer."""

    def __init__(self, post: Callable[[Event], None], clock: Clock, rng: random.Random):
        self._post = post
        self._clock = clock
        self._rng = rng
        self._tasks: dict[tuple[str, Purpose], asyncio.Task[None]] = {}

    def start(self, command: StartProbing) -> None:
        """Begins to ask, in place of what was asked before."""
        self.stop(command.container_id, command.purpose)
        self._tasks[command.container_id, command.purpose] = asyncio.create_task(self._run(command))

    def stop(self, container_id: str, purpose: Purpose) -> None:
        """Asks no more."""
        task = self._tasks.pop((container_id, purpose), None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Ends every probe."""
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, command: StartProbing) -> None:
        probe = command.probe
        pause_s = EAGER_FIRST_S if command.eager else probe.interval_s
        if not command.eager:
            await self._clock.sleep(self._rng.uniform(0, probe.interval_s))
        while True:
            begun = self._clock.monotonic()
            reason = await ask(probe, command.ip)
            if reason:
                self._post(ProbeFailed(command.container_id, command.purpose, reason))
                pause_s = min(probe.interval_s, pause_s * EAGER_GROWTH)
            else:
                self._post(ProbeSucceeded(command.container_id, command.purpose))
                pause_s = probe.interval_s
            await self._clock.sleep(max(0.0, begun + pause_s - self._clock.monotonic()))


async def ask(probe: Probe, ip: str) -> str:
    """Why the container is not in order, in a sentence; empty when it is."""
    what = f"{probe.kind} probe of port {probe.port}"
    try:
        async with asyncio.timeout(probe.timeout_s):
            reader, writer = await asyncio.open_connection(ip, probe.port)
            try:
                return await _http(probe, reader, writer) if probe.kind == "http" else ""
            finally:
                writer.transport.abort()
    except TimeoutError:
        return f"{what}: no answer within {probe.timeout_s:g} s"
    except ConnectionRefusedError:
        return f"{what}: nothing listens there so far"
    except OSError as error:
        return f"{what}: {error.strerror or error}"


async def _http(probe: Probe, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """A status from 200 to 399 is good (RFC 9110, section 15)."""
    head = f"GET {probe.path} HTTP/1.1\r\nHost: {probe.host}\r\nUser-Agent: locci-probe\r\n"
    writer.write(f"{head}Accept: */*\r\nConnection: close\r\n\r\n".encode("ascii"))
    try:
        words = (await reader.readline()).split(maxsplit=2)
    except ValueError:
        words = []
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        return f"http probe of port {probe.port}: the answer is not HTTP"
    status = int(words[1])
    # A server whose answer is cut short may log an error for each probe; the verdict does not depend on the rest.
    with contextlib.suppress(OSError):
        await reader.read(BODY_BYTES_MAX)
    return "" if 200 <= status < 400 else f"http probe: GET {probe.path} was answered with status {status}"
