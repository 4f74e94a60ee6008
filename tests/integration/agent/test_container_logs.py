"""What containers write, read from a real engine."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from agent.adapters.container_logs import ContainerLogs
from locci.v1 import agent_pb2, logs_pb2
from tests.integration.agent.rig import NODE, Rig, eventually, replica

pytestmark = pytest.mark.lab

SCRIPT = (
    "echo one; echo two >&2; printf 'b\\377d\\n'; sleep 1; i=0; while :; do i=$((i+1)); echo line $i; sleep 0.2; done"
)


async def test_lines_come_with_time_and_stream_and_end_when_wanted(rig: Rig, image: str) -> None:
    wanted = replica(image)
    wanted.replica.command[:] = ["/bin/sh", "-c", SCRIPT]
    wanted.replica.ClearField("readiness")
    rig.start()
    rig.control_plane.want(wanted)
    name = "replicas/web/0/1"
    await eventually(
        lambda: rig.control_plane.replicas.get(name) is not None and rig.control_plane.replicas[name].container_id,
        "it runs",
    )
    container_id = rig.control_plane.replicas[name].container_id
    source = ContainerLogs(rig.host.socket, NODE)

    lines: list[logs_pb2.LogLine] = []
    following = source.read(agent_pb2.OpenLogs(container_id=container_id, tail_lines=100, follow=True))
    async with asyncio.timeout(60), contextlib.aclosing(following) as uploads:
        async for upload in uploads:
            assert not upload.problem
            lines.extend(upload.lines)
            if any(line.text == "line 3" for line in lines):
                break
    assert {(line.stream, line.text) for line in lines} >= {
        (logs_pb2.LOG_STREAM_STDOUT, "one"),
        (logs_pb2.LOG_STREAM_STDERR, "two"),
        (logs_pb2.LOG_STREAM_STDOUT, "b\ufffdd"),
    }
    assert all(line.time.seconds > 1_700_000_000 for line in lines)
    question = agent_pb2.OpenLogs(container_id=container_id, tail_lines=2)
    assert sum([len(upload.lines) async for upload in source.read(question)]) == 2
    later = agent_pb2.OpenLogs(container_id=container_id, tail_lines=100, since_time=lines[-1].time)
    found = [u.lines[0].text async for u in source.read(later) if u.lines]
    assert found[0] == lines[-1].text

    for foreign in (ContainerLogs(rig.host.socket, "another-node"), ContainerLogs("unix:///nowhere", NODE)):
        (only,) = [upload async for upload in foreign.read(question)]
        assert only.problem
        assert not only.lines
    (odd,) = [u async for u in source.read(agent_pb2.OpenLogs(container_id="../images/json"))]
    assert "not on this host" in odd.problem
