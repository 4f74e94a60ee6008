"""Lines of containers through calls that hosts make when they are asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from fleet.rpc.channel import node_channel
from locci.v1 import agent_pb2, agent_pb2_grpc, app_pb2, logs_pb2, logs_pb2_grpc
from tests.integration.control_plane.rig import Rig, error_of, manifest, running, until


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path) as rig:
        await rig.region("eu")
        for node in ("eu-1", "eu-2"):
            await rig.host(node, "eu")
        wanted = manifest()
        wanted.placement.replicas_per_region = 2
        applied = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=wanted))
        await rig.finished(applied.rollout.name)
        yield rig


def service(rig: Rig) -> logs_pb2_grpc.LogServiceStub:
    return logs_pb2_grpc.LogServiceStub(rig.channel)


async def test_the_lines_of_all_replicas_come_and_end(rig: Rig) -> None:
    request = logs_pb2.TailLogsRequest(name="apps/hello", tail_lines=3)
    seen: dict[str, list[str]] = {}
    async for lines in service(rig).TailLogs(request):
        assert not lines.problem
        seen.setdefault(lines.replica, []).extend(line.text.split()[1] for line in lines.lines)
    assert {replica: sorted(set(numbers)) for replica, numbers in seen.items()} == {
        row.name: ["0", "1", "2"] for row in await rig.held("hello")
    }
    assert [question.tail_lines for host in rig.hosts.values() for question in host.asked] == [3, 3]
    one = (await rig.held("hello"))[1].name
    replicas = {
        found.replica async for found in service(rig).TailLogs(logs_pb2.TailLogsRequest(name=one, tail_lines=1))
    }
    assert replicas == {one}


async def test_who_reads_slowly_holds_back_its_own_stream_and_no_heartbeat(rig: Rig) -> None:
    host = rig.hosts["eu-1"]
    call = service(rig).TailLogs(logs_pb2.TailLogsRequest(name="apps/hello", follow=True))
    await call.read()

    async def stands_still() -> bool:
        before = host.written
        await asyncio.sleep(0.5)
        return before > 0 and host.written == before

    await until(stands_still, "the host waits for whoever reads")
    assert host.written < 1000
    # Its stream goes on: what it says is heard, and what it is to hold arrives.
    beat = rig.plane.observed.session("eu-1", 1).heard_at or 0.0
    await until(lambda: (rig.plane.observed.session("eu-1", 1).heard_at or 0.0) > beat + 1.0, "it beats")
    call.cancel()
    await until(lambda: host.written_to_end == 1, "the reader of the container has ended")
    assert not rig.plane.hub.side_streams._awaited


async def test_what_cannot_be_read_is_said(rig: Rig) -> None:
    await rig.hosts["eu-2"].disconnect()
    await until(lambda: not rig.plane.observed.session("eu-2", 1).connected, "it is gone")
    problems = {}
    async for lines in service(rig).TailLogs(logs_pb2.TailLogsRequest(name="apps/hello", tail_lines=1)):
        problems[lines.node] = lines.problem
    assert problems["nodes/eu-1"] == ""
    assert "nodes/eu-2 is not connected" in problems["nodes/eu-2"]
    for name in ("apps/nobody", "apps/hello/replicas/7-1"):
        error = await error_of(service(rig).TailLogs(logs_pb2.TailLogsRequest(name=name)).read())
        assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_nobody_calls_for_a_stream_that_is_not_its_own(rig: Rig) -> None:
    with rig.plane.hub.side_streams.expect("eu-1", agent_pb2.LogUpload, "operators/one") as (identifier, _):
        async with node_channel(rig.settings.node_listen, rig.hosts["eu-2"].directory) as channel:
            for stolen in (identifier, "nothing"):
                call = agent_pb2_grpc.AgentServiceStub(channel).SendLogs()
                await call.write(agent_pb2.LogUpload(stream_id=stolen))
                await call.done_writing()
                assert (await error_of(call)).code() is grpc.StatusCode.NOT_FOUND
        assert identifier in rig.plane.hub.side_streams._awaited


async def test_a_replica_that_is_started_again_is_followed_on(rig: Rig) -> None:
    host = rig.hosts["eu-1"]
    host.lines_max = 2
    row = next(row for row in await rig.held("hello") if row.node == "nodes/eu-1")
    call = service(rig).TailLogs(logs_pb2.TailLogsRequest(name=row.name, follow=True))
    async with asyncio.timeout(60):
        seen = [await call.read() for _ in range(4)]
    call.cancel()
    assert all(lines.replica == row.name and not lines.problem for lines in seen)
    assert len(host.asked) == 2
    assert not host.asked[0].HasField("since_time")
    assert host.asked[1].since_time.ToNanoseconds() == seen[1].lines[-1].time.ToNanoseconds() + 1
