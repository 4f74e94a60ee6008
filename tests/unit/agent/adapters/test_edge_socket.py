"""The socket between agent and edge, over a real unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.adapters.edge_socket import EdgeSocket
from agent.core.messages import EdgeSeen, EdgeServing, Event
from locci.v1 import edge_pb2


class Worker:
    """One worker of an edge."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader = reader
        self.writer = writer

    def say(self, message: edge_pb2.EdgeMessage) -> None:
        body = message.SerializeToString()
        self.writer.write(struct.pack("!I", len(body)) + body)

    def ack(self, generation: int, refused: str = "") -> None:
        self.say(edge_pb2.EdgeMessage(ack=edge_pb2.EdgeAck(generation=generation, refused_reason=refused)))

    async def config(self) -> edge_pb2.EdgeConfig:
        (size,) = struct.unpack("!I", await self._reader.readexactly(4))
        return edge_pb2.EdgeControl.FromString(await self._reader.readexactly(size)).config


class Rig:
    """A socket, and what it posts."""

    def __init__(self, path: Path):
        self.path = path
        self.posted: asyncio.Queue[Event] = asyncio.Queue()
        self.socket = EdgeSocket(path, self.posted.put_nowait)

    @contextlib.asynccontextmanager
    async def worker(self, generation: int = 0) -> AsyncIterator[Worker]:
        reader, writer = await asyncio.open_unix_connection(self.path)
        worker = Worker(reader, writer)
        worker.say(edge_pb2.EdgeMessage(hello=edge_pb2.EdgeHello(pid=1, generation=generation)))
        yield worker
        writer.close()

    async def until(self, event: Event) -> None:
        async with asyncio.timeout(5):
            while await self.posted.get() != event:
                pass


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path / "edge.sock")
    await rig.socket.start()
    yield rig
    await rig.socket.close()


def config(generation: int, draining: str = "") -> edge_pb2.EdgeConfig:
    body = edge_pb2.EdgeConfig(generation=generation)
    if draining:
        body.routes.add(app="web").local.add(replica=draining, address="10.0.0.1:80", draining=True)
    return body


async def test_an_edge_gets_the_newest_configuration_whenever_it_comes(rig: Rig) -> None:
    rig.socket.publish(config(1))
    rig.socket.publish(config(2))
    async with rig.worker() as worker:
        assert (await worker.config()).generation == 2
        worker.ack(2)
        await rig.until(EdgeServing(1, 2))
        rig.socket.publish(config(3))
        assert (await worker.config()).generation == 3


async def test_the_oldest_generation_counts_and_only_what_is_idle_everywhere(rig: Rig) -> None:
    rig.socket.publish(config(1, draining="r"))
    async with rig.worker() as one, rig.worker() as two:
        for worker in (one, two):
            await worker.config()
        one.ack(1)
        one.say(edge_pb2.EdgeMessage(drain=edge_pb2.EdgeDrain(in_progress={"r": 0})))
        two.say(edge_pb2.EdgeMessage(drain=edge_pb2.EdgeDrain(in_progress={"r": 2})))
        two.ack(1)
        await rig.until(EdgeServing(2, 1))
        two.say(edge_pb2.EdgeMessage(drain=edge_pb2.EdgeDrain(in_progress={"r": 0})))
        await rig.until(EdgeServing(2, 1, frozenset({"r"})))
    await rig.until(EdgeServing(0, 0))


async def test_what_was_said_of_an_earlier_drain_does_not_count(rig: Rig) -> None:
    rig.socket.publish(config(1, draining="r"))
    async with rig.worker() as worker:
        await worker.config()
        worker.say(edge_pb2.EdgeMessage(drain=edge_pb2.EdgeDrain(in_progress={"r": 0})))
        await rig.until(EdgeServing(1, 0, frozenset({"r"})))
        rig.socket.publish(config(2))
        rig.socket.publish(config(3, draining="r"))
        worker.ack(3)
        await rig.until(EdgeServing(1, 3))


async def test_a_refused_configuration_is_not_served(rig: Rig) -> None:
    rig.socket.publish(config(2))
    async with rig.worker(generation=1) as worker:
        await rig.until(EdgeSeen(1))
        await worker.config()
        worker.ack(2, refused="no such directory")
        await rig.until(EdgeServing(1, 1))
        await rig.until(EdgeServing(1, 1))
        assert rig.socket.edges[0].refused_reason == "no such directory"


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", struct.pack("!I", 3) + b"\xff\xff\xff", b"GET / HTTP/1.1"])
async def test_garbage_ends_the_connection_and_nothing_else(rig: Rig, garbage: bytes) -> None:
    rig.socket.publish(config(1))
    reader, writer = await asyncio.open_unix_connection(rig.path)
    writer.write(garbage)
    writer.write_eof()
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()
    async with rig.worker() as worker:
        assert (await worker.config()).generation == 1
