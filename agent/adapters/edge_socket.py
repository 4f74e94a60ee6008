"""The unix socket on which this host's edge is told what to serve (edge.proto).

The agent listens; each worker of the edge connects. A worker that does not read is cut off: when it comes back it gets
the newest configuration, so only the newest is ever kept.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog
from google.protobuf.message import DecodeError

from agent.core.messages import EdgeSeen, EdgeServing, Event
from fleet import telemetry
from locci.v1 import edge_pb2

log = structlog.get_logger()

MESSAGE_BYTES_MAX: Final = 2**20
EDGES_MAX: Final = 64
HELLO_DEADLINE_S: Final = 5.0
SEND_DEADLINE_S: Final = 10.0

_LENGTH: Final = struct.Struct("!I")


@dataclass(slots=True)
class Edge:
    """A connected worker of the edge."""

    pid: int
    serving: int
    refused_reason: str = ""
    in_progress: dict[str, int] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)


def _ignore(said: edge_pb2.EdgeSightings) -> None:
    """What nobody wants to know."""


class EdgeSocket:
    """Tells every connected edge the newest configuration, and posts what they serve together."""

    def __init__(
        self, path: Path, post: Callable[[Event], None], see: Callable[[edge_pb2.EdgeSightings], None] = _ignore
    ):
        """`see` is told what edges have seen in passing."""
        self._path = path
        self._see = see
        self._post = post
        self._config: edge_pb2.EdgeConfig | None = None
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.edges: list[Edge] = []

    async def start(self) -> None:
        """Begins to listen. Raises OSError, as when the directory cannot be written."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        self._path.chmod(0o600)

    async def close(self) -> None:
        """Hangs up; the edges go on with what they have."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._path.unlink(missing_ok=True)

    def publish(self, config: edge_pb2.EdgeConfig) -> None:
        """Every edge is to serve this, those that come later too."""
        still_draining = _draining(self._config) & _draining(config)
        self._config = config
        for edge in self.edges:
            # What was said of an earlier drain of the same replica says nothing about this one.
            edge.in_progress = {name: n for name, n in edge.in_progress.items() if name in still_draining}
            edge.news.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._writers) >= EDGES_MAX:
            log.error("edge_refused", **{telemetry.REASON: f"{EDGES_MAX} edges are connected already"})
            writer.transport.abort()
            return
        self._writers.add(writer)
        try:
            async with asyncio.timeout(HELLO_DEADLINE_S):
                message = await _read(reader)
            if message.WhichOneof("message") == "hello":
                await self._converse(message.hello, reader, writer)
        except (OSError, EOFError, TimeoutError, DecodeError, ValueError) as error:
            log.warning("edge_disconnected", **{telemetry.REASON: str(error) or type(error).__name__})
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _converse(
        self, hello: edge_pb2.EdgeHello, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        edge = Edge(hello.pid, hello.generation)
        self.edges.append(edge)
        log.info("edge_connected", pid=edge.pid, generation=edge.serving)
        self._post(EdgeSeen(edge.serving))
        self._tell()
        edge.news.set()
        sending = asyncio.create_task(self._send(edge, writer))
        try:
            while True:
                self._take(edge, await _read(reader))
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            self.edges.remove(edge)
            self._tell()

    async def _send(self, edge: Edge, writer: asyncio.StreamWriter) -> None:
        while True:
            await edge.news.wait()
            edge.news.clear()
            if self._config is None:
                continue
            body = edge_pb2.EdgeControl(config=self._config).SerializeToString()
            writer.write(_LENGTH.pack(len(body)) + body)
            try:
                async with asyncio.timeout(SEND_DEADLINE_S):
                    await writer.drain()
            except (OSError, TimeoutError):
                writer.transport.abort()
                return

    def _take(self, edge: Edge, message: edge_pb2.EdgeMessage) -> None:
        match message.WhichOneof("message"):
            case "ack":
                edge.refused_reason = message.ack.refused_reason
                if edge.refused_reason:
                    reason = {telemetry.REASON: edge.refused_reason}
                    log.error("edge_refused_configuration", generation=message.ack.generation, **reason)
                else:
                    edge.serving = message.ack.generation
            case "drain":
                edge.in_progress = dict(message.drain.in_progress)
            case "sightings":
                self._see(message.sightings)
                return
            case _:
                log.warning("edge_message_ignored", pid=edge.pid)
                return
        self._tell()

    def _tell(self) -> None:
        """What the edges serve together: idle is what is idle at each of them."""
        idle: set[str] | None = None
        for edge in self.edges:
            own = {replica for replica, count in edge.in_progress.items() if count == 0}
            idle = own if idle is None else idle & own
        generation = min((edge.serving for edge in self.edges), default=0)
        self._post(EdgeServing(len(self.edges), generation, frozenset(idle or ())))


def _draining(config: edge_pb2.EdgeConfig | None) -> set[str]:
    routes = config.routes if config is not None else ()
    return {local.replica for route in routes for local in route.local if local.draining}


async def _read(reader: asyncio.StreamReader) -> edge_pb2.EdgeMessage:
    """The next message. Raises EOFError at the end, ValueError or DecodeError when it is none."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > MESSAGE_BYTES_MAX:
        raise ValueError(f"a message of {length} bytes is longer than {MESSAGE_BYTES_MAX}")
    return edge_pb2.EdgeMessage.FromString(await reader.readexactly(length))
