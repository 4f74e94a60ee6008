"""The other processes that answer: told what the first one knows and decides, started again when they end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import sys
from collections.abc import Sequence
from typing import Final

import structlog

from fleet.backoff import Backoff
from fleet.clock import Clock
from fleet.snapshot import Snapshot
from routing.adapters import worker_channel as channel
from routing.adapters.handover import Handover, Pairs
from routing.answering import Answering, Standing
from routing.frontend import Counts
from routing.settings import DnsSettings

log = structlog.get_logger()

_BACKOFF: Final = Backoff(0.2, 10.0)
_STABLE_S: Final = 30.0
_STOP_S: Final = 3.0
_BACKLOG_BYTES: Final = 64 << 20
"""A worker that has not taken in so much is stuck, and is ended."""


class Workers:
    """Keeps `count - 1` workers beside this process. `answering` is whose decisions they follow."""

    def __init__(self, settings: DnsSettings, node: str, answering: Answering, clock: Clock):
        self.count = settings.workers or os.cpu_count() or 1
        self._settings = settings
        self._node = node
        self._answering = answering
        self._clock = clock
        self._snapshot = b""
        self._told = Standing()
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._pids: dict[int, int] = {}
        self._counts: dict[int, Counts] = {}
        self._told_sockets: dict[int, socket.socket] = {}
        """Where each worker has put its sockets: they are taken out for a successor, and go with the worker."""
        self._sockets: dict[int, Pairs] = {}
        self._past = Counts()
        if self.count > 1:
            answering.swapped = self._swapped

    def counts(self) -> Counts:
        """What workers have counted, those that have ended among them."""
        return sum(self._counts.values(), self._past)

    def processes(self) -> list[int]:
        """Process ids of the workers that answer."""
        return [self._pids[number] for number in sorted(self._counts)]

    def take_snapshot(self, snapshot: Snapshot) -> None:
        """Has workers answer by another table."""
        if self.count > 1:
            self._snapshot = channel.snapshot_to_bytes(snapshot)
            self._tell(self._table())

    def pairs(self) -> dict[int, Pairs]:
        """The sockets of the workers that answer, by the worker's number."""
        for number in self._counts.keys() - self._sockets.keys():
            numbers = channel.take_sockets(self._told_sockets[number])
            if len(numbers) == 2 * len(self._settings.listen):
                found = zip(numbers[::2], numbers[1::2], strict=True)
                self._sockets[number] = dict(zip(self._settings.listen, found, strict=True))
        return dict(self._sockets)

    async def run(self, ports: Sequence[int], handed: Handover = Handover()) -> None:  # noqa: B008
        """Keeps the workers until it is cancelled; then they have ended. Their first ones go on at what was handed
        over."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(1, self.count):
                tasks.create_task(self._keep(number, ports, handed.of(number)))

    def _swapped(self) -> None:
        standing = self._answering.standing()
        if standing != self._told:
            self._told = standing
            self._tell(channel.frame(channel.STANDING, channel.standing_to_json(standing)))

    def _table(self) -> bytes:
        self._told = self._answering.standing()
        return channel.frame(channel.TABLE, channel.standing_to_json(self._told), self._snapshot)

    def _tell(self, content: bytes) -> None:
        for writer in self._writers.values():
            if writer.transport.get_write_buffer_size() > _BACKLOG_BYTES:
                writer.transport.abort()
            else:
                writer.write(content)

    async def _keep(self, number: int, ports: Sequence[int], pairs: Pairs) -> None:
        attempt, rng = 0, random.Random()
        while True:
            began = self._clock.monotonic()
            code = await self._run_one(number, ports, pairs)
            pairs = {}
            attempt = 0 if self._clock.monotonic() - began > _STABLE_S else attempt + 1
            log.warning("worker_ended", worker=number, exit_code=code)
            await self._clock.sleep(_BACKOFF.delay_s(attempt, rng.random()))

    async def _run_one(self, number: int, ports: Sequence[int], pairs: Pairs) -> int:
        """Starts a worker and hears it until it ends; its exit code. It has the sockets then, and this process not."""
        ours, theirs = socket.socketpair()
        sockets, told = socket.socketpair()
        given = [descriptor for pair in pairs.values() for descriptor in pair]
        with theirs, told:
            numbers = (theirs.fileno(), told.fileno())
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "routing.worker", *map(str, numbers)), pass_fds=(*numbers, *given)
            )
        for descriptor in given:
            os.close(descriptor)
        self._told_sockets[number] = sockets
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            setup = {
                "settings": self._settings.model_dump(mode="json"),
                "node": self._node,
                "ports": list(ports),
                "pairs": {text: list(pair) for text, pair in pairs.items()},
                "processes": self.count,
                "responses_per_second": self._answering.limiter.per_second,
            }
            writer.write(channel.frame(channel.SETUP, setup) + self._table())
            self._pids[number], self._writers[number] = process.pid, writer
            while True:
                _, document, _ = await channel.read_frame(reader)
                self._counts[number] = Counts.read(document)
        except (OSError, asyncio.IncompleteReadError):
            # The worker has ended, or is about to: nothing is heard from it any more.
            return await _ended(process)
        finally:
            self._writers.pop(number, None)
            self._past += _closed(self._counts.pop(number, Counts()))
            self._told_sockets.pop(number).close()
            Handover({number: self._sockets.pop(number, {})}).close()
            writer.close()
            await _ended(process)


def _closed(counts: Counts) -> Counts:
    """What remains of an ended worker's counts: its connections are gone."""
    return counts + Counts(connections=-counts.connections)


async def _ended(process: asyncio.subprocess.Process) -> int:
    """Waits for a worker whose channel is closed; one that does not end by that is killed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_STOP_S):
            return await process.wait()
    process.kill()
    return await process.wait()
