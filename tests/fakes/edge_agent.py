"""The agent's side of the edge's unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from pathlib import Path

from locci.v1 import edge_pb2


class FakeAgent:
    """Sends its configuration to whoever connects; keeps what edges say."""

    def __init__(self, run_dir: Path):
        self.path = run_dir / "edge.sock"
        self.config: edge_pb2.EdgeConfig | None = None
        self.hellos: list[edge_pb2.EdgeHello] = []
        self.acks: list[edge_pb2.EdgeAck] = []
        self.drains: list[dict[str, int]] = []
        self.sightings: list[edge_pb2.EdgeSightings] = []
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def stop(self) -> None:
        """Goes away as a process that was killed does."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.close()
        self.path.unlink(missing_ok=True)
        await asyncio.sleep(0)

    async def send(self, config: edge_pb2.EdgeConfig) -> None:
        """Sends a configuration now and to each edge that connects later."""
        self.config = config
        for writer in list(self._writers):
            self._write(writer, config)

    async def send_raw(self, data: bytes) -> None:
        for writer in list(self._writers):
            writer.write(data)

    def _write(self, writer: asyncio.StreamWriter, config: edge_pb2.EdgeConfig) -> None:
        data = edge_pb2.EdgeControl(config=config).SerializeToString()
        writer.write(struct.pack(">I", len(data)) + data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        if self.config is not None:
            self._write(writer, self.config)
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                (size,) = struct.unpack(">I", await reader.readexactly(4))
                message = edge_pb2.EdgeMessage.FromString(await reader.readexactly(size))
                match message.WhichOneof("message"):
                    case "hello":
                        self.hellos.append(message.hello)
                    case "ack":
                        self.acks.append(message.ack)
                    case "drain":
                        self.drains.append(dict(message.drain.in_progress))
                    case "sightings":
                        self.sightings.append(message.sightings)
        self._writers.discard(writer)
        writer.close()


def config(generation: int, routes: list[edge_pb2.EdgeRoute], **fields: str) -> edge_pb2.EdgeConfig:
    """A configuration of the node eu-1 in eu."""
    values = {"node": "eu-1", "region": "eu"} | fields
    return edge_pb2.EdgeConfig(generation=generation, routes=routes, **values)


def route(
    app: str,
    hostnames: list[str],
    local: list[str],
    *,
    peers: list[tuple[str, str, str]] = (),  # type: ignore[assignment]
    draining: list[str] = (),  # type: ignore[assignment]
    cache: bool = True,
    object_bytes_max: int = 0,
) -> edge_pb2.EdgeRoute:
    """A route with replicas at these addresses and peers (region, node, address)."""
    found = edge_pb2.EdgeRoute(app=app, hostnames=hostnames)
    found.cache.disabled = not cache
    found.cache.max_object_bytes = object_bytes_max
    for number, address in enumerate([*local, *draining]):
        found.local.add(replica=f"replicas/{app}/{number}/1", address=address, draining=address in draining)
    for region, node, address in peers:
        found.peers.add(region=region, node=node, address=address, healthy_replicas=1)
    return found
