"""What the engine forgot is ended, and its address is free again; what is not the agent's is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from agent.adapters.orphans import keepers
from tests.integration.agent.rig import SANDBOXES, Rig, eventually, replica, until
from tests.integration.agent.test_sandboxes import both, full

pytestmark = pytest.mark.lab


def forgotten(rig: Rig, container_ids: set[str]) -> None:
    """The engine is killed before it wrote down that it started these containers, and is back."""
    rig.host.kill_engine()
    for container_id in container_ids:
        file = rig.host.layout.host("h") / "docker/data/containers" / container_id / "config.v2.json"
        found = json.loads(file.read_text())
        found["State"] |= {"Running": False, "Pid": 0, "StartedAt": "0001-01-01T00:00:00Z"}
        file.write_text(json.dumps(found))
    rig.host.start_engine()


def kept() -> set[str]:
    """Containers of this machine that run, whether an engine knows of them or not."""
    return {keeper.container_id for keeper in keepers()}



async def test_sandboxes_that_the_engine_forgot_do_not_keep_addresses_of_replicas(rig: Rig, image: str) -> None:
    rig.start()
    before = await full(rig)
    await rig.kill()
    await asyncio.to_thread(forgotten, rig, before)
    assert before <= kept()
    rig.start()
    rig.control_plane.want(replica(image), replica(image, ordinal=1))
    await eventually(lambda: both(rig), "both are ready", 30.0)
    await eventually(lambda: not before & kept(), "what the engine forgot is gone", 30.0)
    await eventually(lambda: rig.control_plane.events.count("OrphanEnded") == SANDBOXES, "it is told")
    assert both(rig)


async def test_a_foreign_container_that_the_engine_forgot_is_left_alone(rig: Rig, image: str) -> None:
    rig.start()
    rig.control_plane.want(replica(image))
    await eventually(rig.control_plane.ready, "it is ready")
    container_id = rig.control_plane.replicas["replicas/web/0/1"].container_id

    def make() -> str:
        with contextlib.closing(rig.host.client()) as client:
            made: str = client.create_container(image=image, labels={"dev.locci.node": "other"})["Id"]
            client.start(made)
            return made

    def remove(foreign: str) -> None:
        with contextlib.closing(rig.host.client()) as client:
            client.remove_container(foreign)
            client.restart(container_id, timeout=0)

    foreign = await asyncio.to_thread(make)
    try:
        await asyncio.to_thread(forgotten, rig, {foreign, container_id})
        await asyncio.to_thread(remove, foreign)
        await until(lambda: _again(rig, container_id), "another took its place", 60.0)
        await eventually(lambda: container_id not in kept(), "the replica that the engine forgot is gone", 30.0)
        assert foreign in kept()
    finally:
        pass
