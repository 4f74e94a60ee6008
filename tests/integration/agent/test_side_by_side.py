"""Images that come before their replica, and two releases of which one is asked, on a real engine."""

from __future__ import annotations

import asyncio

import pytest

from locci.v1 import replica_pb2, resource_pb2
from tests.integration.agent.rig import Rig, containers, eventually, named, replica, route
from tests.integration.engine_fixture import EngineHost

pytestmark = pytest.mark.lab

HELD = "images/0123456789abcdef"


def images(host: EngineHost) -> list[str]:
    """Images by digest that the engine has."""
    client = host.client()
    try:
        return [digest for image in client.images() for digest in image.get("RepoDigests") or []]
    finally:
        client.close()


async def test_an_image_is_held_without_a_container_and_used_when_its_replica_comes(rig: Rig, image: str) -> None:
    rig.start()
    body = resource_pb2.ImageHold(image=image)
    rig.control_plane.want(named(resource_pb2.Resource(name=HELD, image=body)))
    await eventually(lambda: rig.control_plane.ready(HELD), "the image is held")
    assert rig.control_plane.replicas[HELD].phase == replica_pb2.REPLICA_PHASE_HELD
    assert image in await asyncio.to_thread(images, rig.host)
    assert await containers(rig.host) == {}
    rig.control_plane.want(replica(image))
    await eventually(rig.control_plane.ready, "its replica runs")
    await eventually(lambda: HELD in rig.control_plane.gone, "it is no longer told of")


async def test_an_image_that_cannot_be_pulled_is_told_with_the_reason(rig: Rig, image: str) -> None:
    rig.start()
    missing = f"{image.rpartition('@')[0]}@sha256:{'0' * 64}"
    rig.control_plane.want(named(resource_pb2.Resource(name=HELD, image=resource_pb2.ImageHold(image=missing))))
    await eventually(lambda: "cannot be pulled" in rig.control_plane.replicas.get(HELD, _NONE).reason, "the reason")
    assert not rig.control_plane.ready(HELD)


async def test_only_the_release_that_is_named_gets_requests(rig: Rig, image: str) -> None:
    def only(spec: str) -> resource_pb2.Resource:
        result = route()
        result.route.only_spec_hash = spec
        return named(result)

    both = (replica(image, release=1, spec="old"), replica(image, release=2, spec="new"))
    rig.start()
    async with rig.edge.connected():
        rig.control_plane.want(only("old"), *both)
        await eventually(
            lambda: len(rig.edge.addresses()) == len(rig.edge.addresses(draining=True)) == 1, "the old one"
        )
        old, new = rig.edge.addresses()[0], rig.edge.addresses(draining=True)[0]
        before = await containers(rig.host)
        rig.control_plane.want(only("new"), *both)
        await eventually(lambda: list(rig.edge.addresses()) == [new], "requests go over")
        assert list(rig.edge.addresses(draining=True)) == [old]
        rig.control_plane.want(only("old"), *both)
        await eventually(lambda: list(rig.edge.addresses()) == [old], "and back")
        assert await containers(rig.host) == before, "nothing was started or stopped for it"


_NONE = replica_pb2.ReplicaStatus()
