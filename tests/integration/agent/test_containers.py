"""What the agent does with containers, on a real engine."""

from __future__ import annotations

import time

import pytest

from locci.v1 import replica_pb2
from tests.integration.agent.rig import Rig, eventually, replica, route

pytestmark = pytest.mark.lab


async def test_ten_replicas_start_and_are_served(rig: Rig, image: str) -> None:
    rig.start()
    async with rig.edge.connected():
        await eventually(lambda: rig.control_plane.sessions, "the agent connects")
        begun = time.monotonic()
        revision = rig.control_plane.want(route(), *(replica(image, ordinal=n) for n in range(10)))
        names = [f"replicas/web/{n}/1" for n in range(10)]
        await eventually(lambda: all(rig.control_plane.ready(name) for name in names), "all are ready")
        print(f"ten replicas ready after {time.monotonic() - begun:.2f} s")
        await eventually(lambda: rig.control_plane.applied == revision, "the revision is applied")
        assert len(rig.edge.addresses()) == 10
        status = rig.control_plane.replicas[names[0]]
        assert status.phase == replica_pb2.REPLICA_PHASE_RUNNING
        assert status.address in rig.edge.addresses()
