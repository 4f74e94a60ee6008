"""Networks made ahead of time, on a real engine."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.integration.agent.rig import SANDBOXES, Rig, containers, eventually, replica, until

pytestmark = pytest.mark.lab


def sandboxes(rig: Rig) -> set[str]:
    """Ids of all sandboxes that run."""
    with contextlib.closing(rig.host.client()) as client:
        return {found["Id"] for found in client.containers(filters={"label": "dev.locci.sandbox"})}


def joined(rig: Rig, container_id: str) -> str:
    """The sandbox that a container joins; empty when it has its own network."""
    with contextlib.closing(rig.host.client()) as client:
        mode: str = client.inspect_container(container_id)["HostConfig"]["NetworkMode"]
    return mode.removeprefix("container:") if mode.startswith("container:") else ""


async def full(rig: Rig, used: int = 0) -> set[str]:
    """The sandboxes, as soon as the pool is full besides those in use."""

    async def enough() -> bool:
        return len(await asyncio.to_thread(sandboxes, rig)) == SANDBOXES + used

    await until(enough, "the pool is full")
    return await asyncio.to_thread(sandboxes, rig)


async def test_a_replica_takes_one_and_it_goes_with_the_replica(rig: Rig, image: str) -> None:
    rig.start()
    before = await full(rig)
    rig.control_plane.want(replica(image))
    await eventually(rig.control_plane.ready, "it is ready")
    container_id = rig.control_plane.replicas["replicas/web/0/1"].container_id
    used = await asyncio.to_thread(joined, rig, container_id)
    assert used in before
    await full(rig, used=1)
    await rig.kill()
    rig.start()
    await eventually(lambda: rig.control_plane.sessions == 2 and rig.control_plane.ready(), "it is adopted")
    assert rig.control_plane.replicas["replicas/web/0/1"].container_id == container_id
    rig.control_plane.want()

    async def gone() -> bool:
        return used not in await asyncio.to_thread(sandboxes, rig) and await containers(rig.host) == {}

    await until(gone, "the replica and its sandbox are gone")
    await full(rig)


async def test_a_replica_whose_sandbox_dies_is_reachable_again_soon(rig: Rig, image: str) -> None:
    rig.start()
    await full(rig)
    rig.control_plane.want(replica(image))
    await eventually(rig.control_plane.ready, "it is ready")
    container_id = rig.control_plane.replicas["replicas/web/0/1"].container_id
    seen = len(rig.control_plane.seen)

    def kill(remove: bool) -> None:
        with contextlib.closing(rig.host.client()) as client:
            sandbox = joined(rig, rig.control_plane.replicas["replicas/web/0/1"].container_id)
            client.remove_container(sandbox, force=True) if remove else client.kill(sandbox)

    await asyncio.to_thread(kill, False)
    await eventually(lambda: any(not s.ready for s in rig.control_plane.seen[seen:]), "it is not ready")
    await eventually(rig.control_plane.ready, "it is ready again")
    assert rig.control_plane.replicas["replicas/web/0/1"].container_id == container_id
    await asyncio.to_thread(kill, True)

    def another() -> bool:
        status = rig.control_plane.replicas["replicas/web/0/1"]
        return status.ready and status.container_id != container_id

    await eventually(another, "another container takes its place")


async def test_after_a_reboot_of_the_host_everything_starts_again(rig: Rig, image: str) -> None:
    rig.start()
    await full(rig)
    rig.control_plane.want(replica(image))
    await eventually(rig.control_plane.ready, "it is ready")
    container_id = rig.control_plane.replicas["replicas/web/0/1"].container_id
    await rig.kill()

    def reboot() -> None:
        with contextlib.closing(rig.host.client()) as client:
            for found in client.containers():
                client.kill(found["Id"])

    await asyncio.to_thread(reboot)
    rig.start()
    await eventually(lambda: rig.control_plane.sessions == 2 and rig.control_plane.ready(), "it is ready again")
    assert rig.control_plane.replicas["replicas/web/0/1"].container_id == container_id
    await full(rig, used=1)
