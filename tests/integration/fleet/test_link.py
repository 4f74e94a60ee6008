"""A node's link against a scripted control plane, over real gRPC with mTLS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import pytest

from fleet.clock import SystemClock
from fleet.rpc.channel import SERVER_OPTIONS
from fleet.rpc.link import NodeLink
from fleet.snapshot import Snapshot, SnapshotFile, snapshot_hash
from locci.v1 import agent_pb2, agent_pb2_grpc, node_pb2, resource_pb2
from tests.fakes.authority import Authority

Session = grpc.aio.ServicerContext[agent_pb2.NodeMessage, agent_pb2.ControlMessage]
Script = Callable[[AsyncIterator[agent_pb2.NodeMessage], Session], Awaitable[None]]


class Consumer:
    """Accepts everything but resources named `routes/bad`, and remembers it."""

    def __init__(self) -> None:
        self.taken: list[Snapshot] = []

    def problems(self, snapshot: Snapshot) -> list[agent_pb2.ResourceProblem]:
        bad = [name for name in snapshot.resources if name == "routes/bad"]
        return [agent_pb2.ResourceProblem(name=name, message="is bad") for name in bad]

    def accepted(self, snapshot: Snapshot) -> None:
        self.taken.append(snapshot)

    def complete_status(self) -> agent_pb2.Status:
        return agent_pb2.Status(complete=True)

    def status_change(self) -> agent_pb2.Status | None:
        return None

    def evidence(self) -> agent_pb2.Evidence | None:
        return None

    def heartbeat(self) -> agent_pb2.Heartbeat:
        return agent_pb2.Heartbeat(load=0.5)


class ControlPlane(agent_pb2_grpc.AgentServiceServicer):
    """Plays one script per session, then the last one again."""

    def __init__(self, *scripts: Script):
        self._scripts = list(scripts)
        self.hellos: list[agent_pb2.Hello] = []

    async def Sync(self, request_iterator: AsyncIterator[agent_pb2.NodeMessage], context: Session) -> None:  # type: ignore[override]  # noqa: N802
        self.hellos.append((await anext(request_iterator)).hello)
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        await script(request_iterator, context)


def welcome(epoch: int = 1) -> agent_pb2.ControlMessage:
    message = agent_pb2.ControlMessage(welcome=agent_pb2.Welcome(epoch=epoch))
    message.welcome.heartbeat_interval.FromMilliseconds(50)
    return message


def delta(*names: str, nonce: int = 1, version: str = "v1", wrong_hash: bool = False) -> agent_pb2.ControlMessage:
    digest = "0" * 64 if wrong_hash else snapshot_hash((name, version) for name in names)
    body = agent_pb2.Delta(nonce=nonce, revision=nonce, complete=True, snapshot_hash=digest)
    body.resources.extend(resource_pb2.Resource(name=name, version=version) for name in names)
    return agent_pb2.ControlMessage(delta=body)


async def answer(messages: AsyncIterator[agent_pb2.NodeMessage]) -> agent_pb2.NodeMessage:
    """The next Ack or Nack."""
    async for message in messages:
        if message.WhichOneof("message") in ("ack", "nack"):
            return message
    raise AssertionError("the node went away")


class Rig:
    """A link and the control plane that it dials."""

    def __init__(self, tmp_path: Path):
        self.authority = Authority()
        self.consumer = Consumer()
        self.file = SnapshotFile(tmp_path / "snapshot.pb")
        self.path = tmp_path / "identity"

    @contextlib.asynccontextmanager
    async def running(self, *scripts: Script) -> AsyncIterator[ControlPlane]:
        control_plane = ControlPlane(*scripts)
        server = grpc.aio.server(options=SERVER_OPTIONS)
        agent_pb2_grpc.add_AgentServiceServicer_to_server(control_plane, server)
        credentials = grpc.ssl_server_credentials(
            [self.authority.server()], self.authority.pem.encode(), require_client_auth=True
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        self.link = NodeLink(
            role=node_pb2.NODE_ROLE_EDGE,
            identity=self.authority.join(self.path, node="eu-1", region="eu", endpoints=(f"127.0.0.1:{port}",)),
            file=self.file,
            consumer=self.consumer,
            resource_types=["routes"],
            facts=node_pb2.NodeFacts,
            clock=SystemClock(),
            rng=random.Random(1),
        )
        running = asyncio.create_task(self.link.run())
        try:
            yield control_plane
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await server.stop(None)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def result_of(
    script: Callable[[AsyncIterator[agent_pb2.NodeMessage], Session], Awaitable[object]],
) -> tuple[Script, asyncio.Future[object]]:
    """A script, and what it returns the first time; the session stays open after it."""
    outcome: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def play(messages: AsyncIterator[agent_pb2.NodeMessage], session: Session) -> None:
        value = await script(messages, session)
        if not outcome.done():
            outcome.set_result(value)
        async for _ in messages:
            pass

    return play, outcome


async def within(outcome: asyncio.Future[object], seconds: float = 15) -> object:
    async with asyncio.timeout(seconds):
        return await outcome


async def test_a_delta_is_on_disk_before_it_is_acknowledged(rig: Rig) -> None:
    async def play(messages: AsyncIterator[agent_pb2.NodeMessage], session: Session) -> object:
        await session.write(welcome(epoch=7))
        await session.write(delta("routes/a"))
        ack = (await answer(messages)).ack
        return ack.revision, rig.file.load()

    script, outcome = result_of(play)
    async with rig.running(script):
        revision, on_disk = await within(outcome)  # type: ignore[misc]
    assert revision == 1
    assert list(on_disk.resources) == ["routes/a"]
    assert on_disk.epoch == 7
    assert [list(s.resources) for s in rig.consumer.taken] == [["routes/a"]]


async def test_after_a_reconnect_the_node_says_what_it_holds(rig: Rig) -> None:
    async def first(messages: AsyncIterator[agent_pb2.NodeMessage], session: Session) -> None:
        await session.write(welcome(epoch=3))
        await session.write(delta("routes/a"))
        await answer(messages)

    async def second(messages: AsyncIterator[agent_pb2.NodeMessage], session: Session) -> object:
        await session.write(welcome(epoch=4))
        return None

    script, outcome = result_of(second)
    async with rig.running(first, script) as control_plane:
        await within(outcome)
        hello = control_plane.hellos[1]
    assert [(r.name, r.version) for r in hello.held] == [("routes/a", "v1")]
    assert (hello.epoch, hello.revision) == (3, 1)
    assert hello.snapshot_hash == snapshot_hash([("routes/a", "v1")])


@pytest.mark.parametrize(
    ("bad", "said", "resync"),
    [
        (delta("routes/good", "routes/bad", nonce=2), "is bad", False),
        (delta("routes/b", nonce=2, wrong_hash=True), "hash", True),
    ],
)
async def test_a_bad_snapshot_is_refused_whole(
    rig: Rig, bad: agent_pb2.ControlMessage, said: str, resync: bool
) -> None:
    async def play(messages: AsyncIterator[agent_pb2.NodeMessage], session: Session) -> object:
        await session.write(welcome())
        await session.write(delta("routes/a"))
        await answer(messages)
        await session.write(bad)
        return (await answer(messages)).nack

    script, outcome = result_of(play)
    async with rig.running(script):
        nack = await within(outcome)
        assert isinstance(nack, agent_pb2.Nack)
        assert said in nack.problems[0].message
        assert (nack.nonce, nack.held_revision, nack.resync) == (2, 1, resync)
        assert list(rig.link.snapshot.resources) == ["routes/a"]
    assert list(rig.file.load().resources) == ["routes/a"]


async def test_a_full_disk_refuses_and_says_so(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(messages: AsyncIterator[agent_pb2.NodeMessage], session: Session) -> object:
        await session.write(welcome())
        await session.write(delta("routes/a"))
        await answer(messages)
        monkeypatch.setattr(os, "fsync", _full)
        await session.write(delta("routes/b", nonce=2))
        return (await answer(messages)).nack

    def _full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    script, outcome = result_of(play)
    async with rig.running(script):
        nack = await within(outcome)
        assert isinstance(nack, agent_pb2.Nack)
        assert "No space left on device" in nack.problems[0].message
        assert "free some space" in nack.problems[0].message
        assert rig.link.connected
    monkeypatch.undo()
    assert list(rig.file.load().resources) == ["routes/a"]


async def test_a_resource_with_a_time_to_live_ends_by_itself(rig: Rig) -> None:
    async def play(messages: AsyncIterator[agent_pb2.NodeMessage], session: Session) -> object:
        await session.write(welcome())
        message = delta("routes/a", "routes/short")
        message.delta.resources[1].time_to_live.FromMilliseconds(100)
        await session.write(message)
        return await answer(messages)

    script, outcome = result_of(play)
    async with rig.running(script):
        await within(outcome)
        async with asyncio.timeout(30):
            while len(rig.consumer.taken) < 2:
                await asyncio.sleep(0.02)
    assert [sorted(s.resources) for s in rig.consumer.taken] == [["routes/a", "routes/short"], ["routes/a"]]
    assert list(rig.file.load().resources) == ["routes/a"]


async def test_heartbeats_come_by_the_interval_and_number_themselves(rig: Rig) -> None:
    async def play(messages: AsyncIterator[agent_pb2.NodeMessage], session: Session) -> object:
        await session.write(welcome())
        beats = []
        async for message in messages:
            if message.HasField("heartbeat"):
                beats.append(message.heartbeat)
            if len(beats) == 3:
                break
        return beats

    script, outcome = result_of(play)
    async with rig.running(script):
        beats = await within(outcome)
    assert isinstance(beats, list)
    assert [beat.sequence for beat in beats] == [1, 2, 3]
    assert all(beat.load == 0.5 and beat.time.seconds > 0 for beat in beats)


async def test_a_new_pace_counts_at_once(rig: Rig) -> None:
    async def play(messages: AsyncIterator[agent_pb2.NodeMessage], session: Session) -> object:
        message = welcome()
        message.welcome.heartbeat_interval.FromSeconds(60)
        await session.write(message)
        beats = 0
        async for said in messages:
            beats += said.HasField("heartbeat")
            if said.HasField("heartbeat") and beats == 1:
                pace = agent_pb2.Pace()
                pace.heartbeat_interval.FromMilliseconds(50)
                await session.write(agent_pb2.ControlMessage(pace=pace))
            if beats == 4:
                break
        return beats

    script, outcome = result_of(play)
    async with rig.running(script) as control_plane:
        assert await within(outcome) == 4
    assert control_plane.hellos[0].paced


async def test_a_goodbye_says_when_to_come_back(rig: Rig) -> None:
    async def goodbye(messages: AsyncIterator[agent_pb2.NodeMessage], session: Session) -> None:
        message = agent_pb2.ControlMessage()
        message.goodbye.reason = agent_pb2.GOODBYE_REASON_SHUTDOWN
        message.goodbye.retry_after.FromMilliseconds(50)
        await session.write(message)

    async def second(messages: AsyncIterator[agent_pb2.NodeMessage], session: Session) -> object:
        await session.write(welcome())
        return None

    script, outcome = result_of(second)
    async with rig.running(goodbye, script) as control_plane:
        await within(outcome)
        assert len(control_plane.hellos) == 2
