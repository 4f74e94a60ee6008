"""Images are everywhere before anything is exchanged: a real control plane with simulated hosts over mTLS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from locci.v1 import app_pb2, manifest_pb2, node_pb2, release_pb2
from tests.integration.control_plane.rig import Rig, manifest, running, until


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path, lost_after_s=600.0) as rig:
        await rig.region("eu", 50.1, 8.7)
        for number in range(1, 3):
            await rig.host(f"eu-{number}", "eu")
        answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=of("1")))
        assert (await rig.finished(answer.rollout.name)).state == release_pb2.ROLLOUT_STATE_SUCCEEDED
        yield rig


def of(tag: str, deadline_s: int = 600) -> manifest_pb2.AppManifest:
    result = manifest()
    result.image = f"registry.test:5000/hello:{tag}"
    result.placement.replicas_per_region = 2
    result.rollout.prefetch_deadline.FromSeconds(deadline_s)
    return result


async def begun(rig: Rig, wanted: manifest_pb2.AppManifest, pulled_by: str) -> str:
    """Applies a release of which only one host gets the image; returns when that is waited for."""
    for name, host in rig.hosts.items():
        ready = name == pulled_by
        host.fetch = lambda image, ready=ready: (ready, "" if ready else "the registry is not reached")
    name = str((await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=wanted))).rollout.name)

    async def waits() -> bool:
        row = await rig.rollouts.GetRollout(release_pb2.GetRolloutRequest(name=name))
        return "pull the image first" in row.reason or bool(row.end_time.seconds)

    await until(waits, "the images")
    return name


async def test_nothing_is_exchanged_before_every_host_has_the_image(rig: Rig) -> None:
    name = await begun(rig, of("2"), "eu-1")

    async def one_is_left() -> bool:
        row = await rig.rollouts.GetRollout(release_pb2.GetRolloutRequest(name=name))
        return bool(row.reason == "1 nodes pull the image first: eu-2")

    await until(one_is_left, "the first host has it")
    assert {replica.release for replica in await rig.held("hello")} == {1}
    rig.hosts["eu-2"].fetch = lambda image: (True, "")
    rig.hosts["eu-2"].act()
    row = await rig.finished(name)
    assert (row.state, row.prefetching) == (release_pb2.ROLLOUT_STATE_SUCCEEDED, False)
    assert list(row.prefetch_nodes) == ["nodes/eu-1", "nodes/eu-2"]
    await until(lambda: not any(host.images for host in rig.hosts.values()), "images are no longer held by themselves")


async def test_a_host_that_cannot_pull_ends_the_rollout_with_its_words(rig: Rig) -> None:
    name = await begun(rig, of("2", 1), "eu-1")
    row = await rig.finished(name)
    assert row.state == release_pb2.ROLLOUT_STATE_ROLLED_BACK
    assert "node eu-2 did not have the image within 1 s" in row.reason
    assert "the registry is not reached" in row.reason
    assert {replica.release for replica in await rig.held("hello")} == {1}
    assert not any("/2" in started for host in rig.hosts.values() for started in host.started)


async def test_a_host_that_is_not_there_holds_nothing_up(rig: Rig) -> None:
    name = await begun(rig, of("2"), "eu-1")
    await rig.hosts["eu-2"].disconnect()
    await rig.condition("eu-2", node_pb2.NODE_CONDITION_SUSPECT)

    async def goes_on() -> bool:
        row = await rig.rollouts.GetRollout(release_pb2.GetRolloutRequest(name=name))
        return not row.prefetching and any(r.release == 2 and r.healthy for r in await rig.held("hello"))

    await until(goes_on, "the other host is exchanged")
