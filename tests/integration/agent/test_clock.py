"""The host's clock jumps: nothing breaks but what depends on certificates, and that says so."""

from __future__ import annotations

import asyncio
import contextlib

import docker
import pytest

from tests.fakes.wall_clock import WallClock
from tests.integration.agent.rig import Rig, containers, eventually, replica, route

pytestmark = pytest.mark.lab


def kill_one(rig: Rig, container_id: str) -> None:
    with contextlib.closing(rig.host.client()) as client, contextlib.suppress(docker.errors.APIError):
        client.kill(container_id)


@pytest.mark.parametrize("offset", ["+400d", "-400d"])
async def test_a_clock_that_jumps_leaves_what_runs_alone_and_is_told_of(rig: Rig, image: str, offset: str) -> None:
    clock, count = WallClock(rig.folder), 2
    rig.start(**clock.environment)
    async with rig.edge.connected():
        wanted = [replica(image, ordinal=number) for number in range(count)]
        rig.control_plane.want(route(), *wanted)
        await eventually(lambda: len(rig.edge.addresses()) == count, "all are served")
        before = await containers(rig.host)
        clock.jump(offset)
        await eventually(lambda: "HostClockTroubled" in rig.control_plane.events, "the jump is told")
        if offset.startswith("+"):
            await eventually(lambda: "HostCertificateTroubled" in rig.control_plane.events, "and what it endangers")
        later = rig.control_plane.want(route(), *wanted, replica(image, ordinal=count))
        await eventually(lambda: rig.control_plane.applied == later, "changes still arrive")
        await eventually(lambda: rig.control_plane.ready(f"replicas/web/{count}/1"), "and are carried out")
        assert before.items() <= (await containers(rig.host)).items()
        assert len(rig.edge.addresses()) == count + 1

        # Started anew, it cannot trust anybody's certificate; it goes on with what it was told last.
        sessions = rig.control_plane.sessions
        await rig.kill()
        rig.start(**clock.environment)
        await eventually(lambda: "certificate" in rig.log.lower() and "control_plane_lost" in rig.log, "it says why")
        victim = next(iter(before))
        await asyncio.to_thread(kill_one, rig, victim)
        await eventually(lambda: len(rig.edge.addresses()) == count + 1, "the one that was killed serves again")
        assert rig.control_plane.sessions == sessions
        assert before.keys() <= (await containers(rig.host)).keys()

        clock.jump("+0")
        await eventually(lambda: rig.control_plane.sessions > sessions, "it is back when the clock is")
        await eventually(lambda: rig.control_plane.applied == later, "with everything in effect")
