"""What the engine forgot is ended, and its address is free again; what is not the agent's is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator

import pytest

from agent.adapters.orphans import end, keepers
from lab.machine import ip_batch, run
from tests.integration.agent.rig import SANDBOXES, Rig, eventually, replica
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


@contextlib.contextmanager
def impostor(rig: Rig, address: str) -> Iterator[None]:
    """Another host on the containers' bridge has the address, and it is the one that is reached there."""
    name = f"{rig.host.namespace}-i"
    mac = "02:42:" + ":".join(f"{int(part):02x}" for part in address.split("."))
    run(["ip", "netns", "add", name])
    try:
        ip_batch(rig.host.namespace, [f"link add impostor type veth peer name eth0 netns {name}"])
        ip_batch(name, [f"link set eth0 address {mac}", "link set eth0 up", f"addr add {address}/24 dev eth0"])
        ip_batch(rig.host.namespace, ["link set impostor master docker0", "link set impostor up"])
        run(rig.host.command("bridge", "fdb", "replace", mac, "dev", "impostor", "master", "static"))
        yield
    finally:
        run(["ip", "netns", "del", name])


async def test_a_replica_whose_address_another_has_gets_another_address(rig: Rig, image: str) -> None:
    rig.start()
    await full(rig)
    rig.control_plane.want(replica(image), replica(image, ordinal=1))
    await eventually(lambda: both(rig), "both are ready")
    hit, other = (rig.control_plane.replicas[f"replicas/web/{n}/1"] for n in (0, 1))
    address, _, _ = hit.address.partition(":")
    seen = len(rig.control_plane.seen)
    with impostor(rig, address):
        await eventually(lambda: any(not s.ready for s in rig.control_plane.seen[seen:]), "it is not ready", 30.0)
        await eventually(lambda: both(rig), "it is ready again", 30.0)
        moved = rig.control_plane.replicas["replicas/web/0/1"]
        assert moved.address.partition(":")[0] != address
        assert moved.container_id != hit.container_id
        assert rig.control_plane.replicas["replicas/web/1/1"].container_id == other.container_id
    assert "AddressContested" in rig.control_plane.events


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


async def test_a_replica_that_the_engine_forgot_is_replaced_and_a_foreign_container_is_left_alone(
    rig: Rig, image: str
) -> None:
    rig.start()
    rig.control_plane.want(replica(image))
    await eventually(rig.control_plane.ready, "it is ready")
    container_id = rig.control_plane.replicas["replicas/web/0/1"].container_id

    def make() -> str:
        with contextlib.closing(rig.host.client()) as client:
            made: str = client.create_container(image=image, labels={"dev.locci.node": "other"})["Id"]
            client.start(made)
            return made

    def remove() -> None:
        with contextlib.closing(rig.host.client()) as client:
            client.remove_container(foreign)

    foreign = await asyncio.to_thread(make)
    try:
        await asyncio.to_thread(forgotten, rig, {foreign, container_id})
        await asyncio.to_thread(remove)
        await eventually(lambda: container_id not in kept(), "the replica that the engine forgot is gone", 60.0)
        await eventually(
            lambda: (
                rig.control_plane.ready()
                and rig.control_plane.replicas["replicas/web/0/1"].container_id != container_id
            ),
            "another took its place",
            60.0,
        )
        assert foreign in kept()
    finally:
        for keeper in keepers():
            if keeper.container_id == foreign:
                end(keeper)
