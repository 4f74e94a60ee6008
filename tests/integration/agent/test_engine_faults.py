"""The disk of Docker Engine is full; a registry dies in the middle of a pull."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from locci.v1 import replica_pb2
from tests.integration.agent.rig import Rig, containers, eventually, replica
from tests.integration.engine_fixture import EngineHost

pytestmark = pytest.mark.lab

DISK_MIB = 96
IMAGE_MIB = 20
WEB = "replicas/web/0/1"


@pytest.fixture(scope="module")
def small_host() -> Iterator[EngineHost]:
    """A host whose engine keeps its data on a small disk of its own."""
    host = EngineHost(Path("/tmp") / f"locci-te-{secrets.token_hex(3)}")
    data = host.layout.host("h") / "docker"
    data.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(data)], check=True)
    try:
        host.up()
        yield host
    finally:
        host.down()


@pytest.fixture
async def small(small_host: EngineHost, tmp_path: Path) -> AsyncIterator[Rig]:
    """An agent beside the engine with the small disk."""
    async with Rig(small_host, tmp_path).serving() as rig:
        yield rig


def push(host: EngineHost, tag: str) -> str:
    """An image that cannot be compressed."""
    return host.push(tag, {"www/noise": secrets.token_hex(IMAGE_MIB << 19)})


def fill(path: Path) -> None:
    with path.open("wb") as file:
        while True:
            file.write(bytes(1 << 20))


def reason(rig: Rig, name: str) -> str:
    return rig.control_plane.replicas.get(name, replica_pb2.ReplicaStatus()).reason


async def test_a_full_disk_of_the_engine_harms_nothing_that_runs(small: Rig) -> None:
    first, second = [await asyncio.to_thread(push, small.host, tag) for tag in ("first", "second")]
    small.start()
    small.control_plane.want(replica(first))
    await eventually(small.control_plane.ready, "the first runs")
    before = await containers(small.host)
    filler = small.host.layout.host("h") / "docker" / "filler"
    with pytest.raises(OSError, match="No space"):
        fill(filler)
    small.control_plane.want(replica(first), replica(second, ordinal=1))
    name = "replicas/web/1/1"
    await eventually(lambda: "free some space" in reason(small, name), "the reason is told")
    await eventually(lambda: "HostDiskSpaceTroubled" in small.control_plane.events, "the host is in trouble")
    assert (await containers(small.host)).items() >= before.items()
    assert small.control_plane.ready()
    filler.unlink()
    await eventually(lambda: small.control_plane.ready(name), "the second runs once there is space")
    await eventually(lambda: "HostDiskSpaceRecovered" in small.control_plane.events, "the host is in order")
    assert (await containers(small.host)).items() >= before.items()


async def test_old_images_make_room_for_the_one_that_is_wanted(small: Rig) -> None:
    images = [await asyncio.to_thread(push, small.host, f"old-{number}") for number in range(5)]
    small.start()
    for number, image in enumerate(images, 1):
        small.control_plane.want(replica(image, release=number))
        name = f"replicas/web/0/{number}"
        await eventually(lambda name=name: small.control_plane.ready(name), f"release {number} runs")

    assert "no space left on device" in small.log
    with contextlib.closing(small.host.client()) as client:
        held = {name for found in await asyncio.to_thread(client.images) for name in found["RepoDigests"] or ()}
    assert images[-1] in held
    assert images[0] not in held


@pytest.mark.drill
async def test_a_registry_that_dies_in_the_middle_of_a_pull(rig: Rig) -> None:
    image = await asyncio.to_thread(push, rig.host, "slow")
    shape = ("replace", "dev", "lo", "root", "tbf", "rate", "8mbit", "burst", "256kb", "latency", "400ms")
    try:
        await asyncio.to_thread(rig.host.traffic_control, *shape)
        rig.start()
        rig.control_plane.want(replica(image))
        pulling = replica_pb2.REPLICA_PHASE_PULLING
        await eventually(lambda: any(s.phase == pulling for s in rig.control_plane.seen), "it is being pulled")
        await eventually(lambda: any(" of " in s.reason for s in rig.control_plane.seen), "it says how far it is")
        assert not rig.control_plane.ready()
        await asyncio.to_thread(rig.host.kill_registry)
        waiting = replica_pb2.REPLICA_PHASE_BACKOFF
        await eventually(lambda: rig.control_plane.replicas[WEB].phase == waiting, "the reason is told")
        assert "registry" in reason(rig, WEB)
    finally:
        with contextlib.suppress(KeyError):
            await asyncio.to_thread(rig.host.kill_registry)
        await asyncio.to_thread(rig.host.traffic_control, "del", "dev", "lo", "root")
        await asyncio.to_thread(rig.host.start_registry)
    await eventually(rig.control_plane.ready, "it runs once the registry is back")
    assert len(await containers(rig.host)) == 1
