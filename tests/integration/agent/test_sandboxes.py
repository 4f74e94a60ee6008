"""Networks made ahead of time, on a real engine."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

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


def apart(rig: Rig, container_id: str) -> bool:
    """Whether a container runs in another network than its sandbox."""
    with contextlib.closing(rig.host.client()) as client:
        pids = [client.inspect_container(i)["State"]["Pid"] for i in (container_id, joined(rig, container_id))]
    return len({Path(f"/proc/{pid}/ns/net").readlink() for pid in pids if pid}) > 1 or 0 in pids


def started_at(rig: Rig, container_id: str) -> str:
    """When a container was started last."""
    with contextlib.closing(rig.host.client()) as client:
        started: str = client.inspect_container(container_id)["State"]["StartedAt"]
    return started


def both(rig: Rig) -> bool:
    """Whether two replicas are ready."""
    return all(rig.control_plane.ready(f"replicas/web/{n}/1") for n in (0, 1))


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


@pytest.mark.parametrize("sees_it", [True, False])
async def test_a_replica_whose_sandbox_was_started_anew_moves_into_the_new_network(
    rig: Rig, image: str, sees_it: bool
) -> None:
    """As an engine leaves it that was killed in mid-start: both run, each in a network of its own."""
    rig.start()
    await full(rig)
    rig.control_plane.want(replica(image), replica(image, ordinal=1))
    await eventually(lambda: both(rig), "both are ready")
    moved, other = (rig.control_plane.replicas[f"replicas/web/{n}/1"].container_id for n in (0, 1))
    if not sees_it:
        await rig.kill()
    started = await asyncio.to_thread(started_at, rig, other)

    def restart() -> None:
        with contextlib.closing(rig.host.client()) as client:
            client.restart(joined(rig, moved), timeout=0)

    assert not await asyncio.to_thread(apart, rig, moved)
    await asyncio.to_thread(restart)
    if not sees_it:
        assert await asyncio.to_thread(apart, rig, moved)
        rig.start()
        await eventually(lambda: rig.control_plane.sessions == 2, "the agent is back")

    async def together() -> bool:
        return both(rig) and not await asyncio.to_thread(apart, rig, moved)

    await until(together, "it runs in the network that the engine shows", 30.0)
    assert rig.control_plane.replicas["replicas/web/1/1"].container_id == other
    assert await asyncio.to_thread(started_at, rig, other) == started


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
