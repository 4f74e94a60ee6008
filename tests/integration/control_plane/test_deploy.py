"""Enrol, apply, place, roll out: a real server and simulated hosts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from locci.v1 import app_pb2, event_pb2, node_pb2, release_pb2
from tests.integration.control_plane.rig import Rig, manifest, running, until


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path) as rig:
        await rig.region("eu", 50.1, 8.7)
        await rig.region("us", 40.7, -74.0)
        await rig.host("eu-1", "eu", address="192.0.2.1")
        await rig.host("us-1", "us", address="192.0.2.2")
        yield rig


async def test_an_applied_app_runs_in_every_region(rig: Rig) -> None:
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest()))
    assert answer.release.pinned_image.startswith("registry.test:5000/hello@sha256:")
    assert (await rig.finished(answer.rollout.name)).state == release_pb2.ROLLOUT_STATE_SUCCEEDED
    assert [(r.node, r.healthy, r.accepted) for r in await rig.held("hello")] == [
        ("nodes/eu-1", True, True),
        ("nodes/us-1", True, True),
    ]
    await until(lambda: rig.hosts["eu-1"].resources["routes/hello"].route.peers, "a peer for eu-1")
    peer = rig.hosts["eu-1"].resources["routes/hello"].route.peers[0]
    assert (peer.node, peer.address) == ("us-1", "192.0.2.2:7447")


async def test_a_bad_release_is_rolled_back_with_the_log_of_what_failed(rig: Rig) -> None:
    first = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest()))
    await rig.finished(first.rollout.name)
    for host in rig.hosts.values():
        host.behave = lambda replica: (replica.release == 1, "" if replica.release == 1 else "probe got 500")
    bad = manifest()
    bad.env["BROKEN"] = "1"
    second = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=bad))
    ended = await rig.finished(second.rollout.name)
    assert ended.state == release_pb2.ROLLOUT_STATE_ROLLED_BACK
    assert ended.automatic_rollback
    assert "probe got 500" in ended.reason
    assert "sh: it broke" in ended.reason
    app = await rig.apps.GetApp(app_pb2.GetAppRequest(name="apps/hello"))
    assert (app.target_release, app.stable_release) == ("apps/hello/releases/1", "apps/hello/releases/1")
    assert rig.hosts["eu-1"].started.count("replicas/hello/0/1") == 1


async def test_each_stopped_replica_is_told_once(rig: Rig) -> None:
    first = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest()))
    await rig.finished(first.rollout.name)
    changed = manifest()
    changed.env["GREETING"] = "hello"
    second = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=changed))
    assert (await rig.finished(second.rollout.name)).state == release_pb2.ROLLOUT_STATE_SUCCEEDED

    async def gone() -> bool:
        return {replica.release for replica in await rig.held("hello")} == {2}

    await until(gone, "the old replicas to be gone")
    stopped = await rig.events.ListEvents(event_pb2.ListEventsRequest(type="ReplicaStopped"))
    assert sorted(e.message for e in stopped.events) == [
        "apps/hello/replicas/0-1 is gone from node eu-1",
        "apps/hello/replicas/1-1 is gone from node us-1",
    ]


async def test_a_silent_node_becomes_suspect_and_comes_back(rig: Rig) -> None:
    await rig.hosts["us-1"].disconnect()
    await rig.condition("us-1", node_pb2.NODE_CONDITION_SUSPECT)
    rig.hosts["us-1"].connect()
    await rig.condition("us-1", node_pb2.NODE_CONDITION_READY)
