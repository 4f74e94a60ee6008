"""A worker of `locci-dns`: answers as the first process decides, and ends when that does."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop

from fleet import telemetry
from fleet.clock import SystemClock
from routing.adapters import worker_channel as channel
from routing.adapters.geo_database import GeoDatabase
from routing.adapters.handover import Handover
from routing.adapters.table import TableReader
from routing.answering import Answering, Standing
from routing.frontend import Frontend, hot_of, limiter_of, manners_of
from routing.settings import DnsSettings

log = structlog.get_logger()

_TIME_S: Final = 0.2
_COUNTS_S: Final = 0.5
_GEO_CHECK_S: Final = 5.0


class Follower(Answering):
    """Answers by what it is told."""

    told = Standing()

    def standing(self) -> Standing:
        """What it was told last."""
        return self.told

    def follow(self, standing: Standing) -> None:
        """Answers by `standing` from now on."""
        self.told = standing
        self._swap()


class Worker:
    """One worker over its channel."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, told: socket.socket):
        """`told` is where its sockets are put, for a successor."""
        self._reader, self._writer, self._told = reader, writer, told
        self._clock = SystemClock()
        self._tables = TableReader()

    async def run(self) -> None:
        """Answers until the channel ends. Raises LocciError when it cannot listen."""
        _, setup, _ = await channel.read_frame(self._reader)
        settings = DnsSettings.model_validate(setup["settings"])
        telemetry.configure_logging("locci-dns", level=settings.log_level)
        manners = manners_of(settings, setup["node"])
        follower = Follower(self._clock, manners, limiter_of(settings), hot_of(settings))
        follower.limit(setup["responses_per_second"])
        follower.take_time()
        geo = GeoDatabase(Path(settings.geo_database), settings.state_dir) if settings.geo_database else None
        frontend = Frontend(settings, follower, self._clock)
        try:
            if geo is not None:
                await self._refresh(geo, follower)
            # Nothing is answered before there is a table to answer by.
            await self._take_one(follower)
            await self._listen(frontend, settings, setup)
            tasks = [asyncio.create_task(self._count(frontend)), asyncio.create_task(self._keep_time(follower))]
            if geo is not None:
                tasks.append(asyncio.create_task(self._watch_geo(geo, follower)))
            try:
                while True:
                    await self._take_one(follower)
            finally:
                for task in tasks:
                    task.cancel()
        except asyncio.IncompleteReadError:
            # The first process goes. When another takes its place, nothing that was asked here is left unanswered.
            await frontend.leave()
            raise
        finally:
            frontend.close()
            self._writer.close()

    async def _listen(self, frontend: Frontend, settings: DnsSettings, setup: Mapping[str, Any]) -> None:
        for text, port in zip(settings.listen, setup["ports"], strict=True):
            if text in setup["pairs"]:
                udp, tcp = setup["pairs"][text]
                await frontend.adopt((udp, tcp))
            else:
                await frontend.listen(text, port, setup["processes"])
        handed = Handover({0: setup["pairs"]})
        handed.close()
        left = Handover({0: frontend.pairs(settings.listen)})
        channel.put_sockets(self._told, list(left.descriptors()))
        left.close()

    async def _take_one(self, follower: Follower) -> None:
        kind, document, more = await channel.read_frame(self._reader)
        standing = channel.standing_from_json(document)
        if kind == channel.TABLE:
            follower.take_names(self._tables.read(channel.snapshot_from_bytes(more))[0])
        follower.follow(standing)

    async def _count(self, frontend: Frontend) -> None:
        while True:
            self._writer.write(channel.frame(channel.COUNTS, asdict(frontend.counts())))
            await self._clock.sleep(_COUNTS_S)

    async def _keep_time(self, follower: Follower) -> None:
        while True:
            follower.take_time()
            await self._clock.sleep(_TIME_S)

    async def _refresh(self, geo: GeoDatabase, follower: Follower) -> None:
        if await asyncio.to_thread(geo.refresh) and geo.lookup is not None:
            follower.take_geo(geo.lookup)

    async def _watch_geo(self, geo: GeoDatabase, follower: Follower) -> None:
        while True:
            await self._clock.sleep(_GEO_CHECK_S)
            await self._refresh(geo, follower)


async def follow(descriptor: int, told: int) -> None:
    """Runs until the first process closes the channel, or SIGTERM or SIGINT."""
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=descriptor))
    running = asyncio.create_task(Worker(reader, writer, socket.socket(fileno=told)).run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError, asyncio.IncompleteReadError, OSError):
        await running


if __name__ == "__main__":
    uvloop.run(follow(*map(int, sys.argv[1:])))
