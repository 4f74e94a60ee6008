"""Restarts without a change of manifest, and which releases are kept, against a real control plane."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from locci.v1 import app_pb2, release_pb2
from tests.integration.control_plane.rig import Rig, error_of, manifest, running


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path, releases_kept=3) as rig:
        await rig.region("eu", 50.1, 8.7)
        await rig.host("eu-1", "eu")
        yield rig


async def finished(rig: Rig, answer: app_pb2.ApplyAppResponse) -> int:
    ended = await rig.finished(answer.rollout.name)
    assert ended.state == release_pb2.ROLLOUT_STATE_SUCCEEDED, ended.reason
    return int(answer.release.number)


async def numbers(rig: Rig) -> list[int]:
    answer = await rig.releases.ListReleases(release_pb2.ListReleasesRequest(parent="apps/hello"))
    return [release.number for release in answer.releases]


async def test_a_restart_makes_containers_anew_and_holds_for_what_follows(rig: Rig) -> None:
    app = manifest()
    first = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=app))
    await finished(rig, first)
    dry = await rig.apps.RestartApp(app_pb2.RestartAppRequest(name="apps/hello", validate_only=True))
    assert [c.action for c in dry.changes] == [app_pb2.PlannedChange.ACTION_REPLACE]
    assert await numbers(rig) == [1]
    again = await rig.apps.RestartApp(app_pb2.RestartAppRequest(name="apps/hello", request_id="r-1"))
    repeated = await rig.apps.RestartApp(app_pb2.RestartAppRequest(name="apps/hello", request_id="r-1"))
    assert repeated.release.name == again.release.name
    assert await finished(rig, again) == 2
    assert again.release.manifest == first.release.manifest
    assert again.release.pinned_image == first.release.pinned_image
    assert again.release.spec_hash != first.release.spec_hash
    assert [replica.release for replica in await rig.held("hello") if not replica.stopping] == [2]
    same = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=app))
    assert same.unchanged
    scaled = await rig.apps.ScaleApp(app_pb2.ScaleAppRequest(name="apps/hello", replicas_per_region=2))
    assert scaled.release.spec_hash == again.release.spec_hash, "what runs is not restarted once more"
    error = await error_of(rig.apps.RestartApp(app_pb2.RestartAppRequest(name="apps/hello", etag="1")))
    assert error.code() is grpc.StatusCode.ABORTED


async def test_old_releases_go_but_never_one_that_is_needed(rig: Rig) -> None:
    await finished(rig, await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest())))
    broken = manifest()
    broken.rollout.no_auto_rollback = True
    for host in rig.hosts.values():
        host.behave = lambda replica: (replica.release == 1, "it does not start")
    for tag in range(2, 6):
        broken.image = f"registry.test:5000/hello:{tag}"
        answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=broken))
    ended = await rig.finished(answer.rollout.name)
    assert ended.state == release_pb2.ROLLOUT_STATE_FAILED
    assert await numbers(rig) == [5, 4, 3, 1], "the first is the stable one"
    rollouts = await rig.rollouts.ListRollouts(release_pb2.ListRolloutsRequest(parent="apps/hello"))
    assert [row.to_release.rpartition("/")[2] for row in rollouts.rollouts] == ["5", "4", "3", "1"]
    back = await rig.rollouts.RollbackApp(release_pb2.RollbackAppRequest(name="apps/hello"))
    assert back.to_release == "apps/hello/releases/1"
