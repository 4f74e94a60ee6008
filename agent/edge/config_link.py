"""The unix socket to the agent: configurations in, acknowledgements and drain reports out.

Each message is preceded by its length, four bytes, most significant first. The edge dials; when the agent is away
it goes on with what it has and dials again.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable
from typing import Final

import structlog
from google.protobuf.message import DecodeError

from agent.edge import configuration
from agent.edge.core.routing import Table
from agent.edge.core.sightings import passes
from agent.edge.state import EdgeState
from fleet.backoff import Backoff
from fleet.errors import LocciError
from locci.v1 import edge_pb2

SOCKET: Final = "edge.sock"
VERSION: Final = "0.1.0"
MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024
DRAIN_INTERVAL_S: Final = 0.1
PASSES_INTERVAL_S: Final = 1.0
ROUND_TRIPS_INTERVAL_S: Final = 30.0
ROUND_TRIPS_MAX: Final = 512
WRITE_TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 2.0
EMPTY_DELAY_S: Final = 0.2
"""Between attempts of one that has nothing to serve by yet."""
_BACKOFF: Final = Backoff(0.1, 2.0)
log = structlog.get_logger()


class ConfigLink:
    """Keeps the edge's table what the agent last sent."""

    def __init__(self, state: EdgeState, apply: Callable[[Table], None]):
        self._state = state
        self._apply = apply
        self._reported: dict[str, int] | None = {}
        """What the agent knows of draining; None makes it be told again, as after each configuration."""
        self._passes_told: dict[str, tuple[int, int]] = {}
        self.connected = False
        self._attempt = 0
        self._unusable = ""
        """Why what is on disk was of no use, once it has been told."""

    def boot(self) -> None:
        """Serves by the last accepted configuration, when there is one."""
        try:
            config = configuration.load(self._state.settings.state_dir)
            if config is not None:
                self._apply(configuration.table_of(config, self._state.settings.worker_count))
                log.info("serving by the configuration on disk", generation=config.generation)
        except LocciError as error:
            if error.message != self._unusable:
                log.warning("no usable configuration on disk", reason=error.message)
            self._unusable = error.message

    async def run(self) -> None:
        """Until cancelled; raises nothing for an agent that is away or talks nonsense."""
        while True:
            try:
                await self._session()
            except (OSError, TimeoutError, asyncio.IncompleteReadError, DecodeError, LocciError) as error:
                if self.connected:
                    log.info("the agent is away", reason=str(error))
                self.connected = False
            delay = _BACKOFF.delay_s(self._attempt, self._state.rng.random())
            self._attempt += 1
            if not self._state.table.generation:
                self.boot()  # Another worker may have been told.
                delay = min(delay, EMPTY_DELAY_S)
            await self._state.clock.sleep(delay)

    async def _session(self) -> None:
        """One connection; ends by an exception."""
        path = self._state.settings.run_dir / SOCKET
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(str(path))
        tasks: list[asyncio.Task[None]] = []
        try:
            hello = edge_pb2.EdgeHello(
                pid=os.getpid(), generation=self._state.table.generation, program_version=VERSION
            )
            await _send(writer, edge_pb2.EdgeMessage(hello=hello))
            self.connected = True
            self._reported = {}
            tasks = [asyncio.create_task(report(writer)) for report in (self._report_drain, self._report_sightings)]
            while True:
                (size,) = struct.unpack(">I", await reader.readexactly(4))
                if size > MESSAGE_BYTES_MAX:
                    raise OSError(f"a message of {size} bytes")
                control = edge_pb2.EdgeControl.FromString(await reader.readexactly(size))
                if control.WhichOneof("message") == "config":
                    await _send(writer, edge_pb2.EdgeMessage(ack=self._take(control.config)))
                self._attempt = 0
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            writer.close()

    def _take(self, config: edge_pb2.EdgeConfig) -> edge_pb2.EdgeAck:
        """On disk first, then served, then acknowledged. One that is refused changes nothing."""
        try:
            table = configuration.table_of(config, self._state.settings.worker_count)
            configuration.save(self._state.settings.state_dir, config)
        except (LocciError, OSError) as error:
            reason = error.message if isinstance(error, LocciError) else f"it cannot be put on disk: {error}"
            log.warning("configuration refused", generation=config.generation, reason=reason)
            self._state.counters.config_refused_total += 1
            return edge_pb2.EdgeAck(generation=config.generation, refused_reason=reason)
        self._apply(table)
        self._reported = None if self._state.in_progress() else {}
        log.info("configuration applied", generation=config.generation, routes=len(config.routes))
        return edge_pb2.EdgeAck(generation=config.generation)

    async def _report_drain(self, writer: asyncio.StreamWriter) -> None:
        """Says how many requests are in progress at draining replicas, whenever that changes."""
        while True:
            now = self._state.in_progress()
            if now != self._reported:
                self._reported = now
                await _send(writer, edge_pb2.EdgeMessage(drain=edge_pb2.EdgeDrain(in_progress=now)))
            await self._state.clock.sleep(DRAIN_INTERVAL_S)

    async def _report_sightings(self, writer: asyncio.StreamWriter) -> None:
        """Says what came of requests that were passed to other nodes, every second, and how far clients are."""
        clock, next_at = self._state.clock, self._state.clock.monotonic() + ROUND_TRIPS_INTERVAL_S
        while True:
            await clock.sleep(PASSES_INTERVAL_S)
            said = edge_pb2.EdgeSightings()
            for found in passes(self._state.passed(), self._passes_told):
                said.passes.add(node=found.node, answered=found.answered, failed=found.failed, reason=found.reason)
            if clock.monotonic() >= next_at:
                next_at = clock.monotonic() + ROUND_TRIPS_INTERVAL_S
                for trip in self._state.round_trips.take(ROUND_TRIPS_MAX):
                    said.round_trips.add(network=trip.network, round_trip_us=trip.microseconds, samples=trip.samples)
            if said.passes or said.round_trips:
                await _send(writer, edge_pb2.EdgeMessage(sightings=said))


async def _send(writer: asyncio.StreamWriter, message: edge_pb2.EdgeMessage) -> None:
    data = message.SerializeToString()
    writer.write(struct.pack(">I", len(data)) + data)
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await writer.drain()
