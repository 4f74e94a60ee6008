"""Blue/green against a real control plane with simulated hosts over mTLS: what hosts are told, and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from locci.v1 import app_pb2, manifest_pb2, release_pb2, replica_pb2
from tests.integration.control_plane.rig import Rig, error_of, manifest, running, until


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path) as rig:
        await rig.region("eu", 50.1, 8.7)
        for number in range(1, 3):
            await rig.host(f"eu-{number}", "eu")
        yield rig


def of(image: str, hold_s: int = 60, **rollout: bool) -> manifest_pb2.AppManifest:
    result = manifest()
    result.image = f"registry.test:5000/hello:{image}"
    result.placement.replicas_per_region = 2
    result.rollout.MergeFrom(manifest_pb2.RolloutPolicy(strategy=manifest_pb2.ROLLOUT_STRATEGY_BLUE_GREEN, **rollout))
    result.rollout.hold.FromSeconds(hold_s)
    return result


async def apply(rig: Rig, wanted: manifest_pb2.AppManifest) -> str:
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=wanted))
    return str(answer.rollout.name)


async def releases(rig: Rig) -> Counter[int]:
    answer = await rig.replicas.ListReplicas(replica_pb2.ListReplicasRequest(parent="apps/hello"))
    return Counter(int(replica.release) for replica in answer.replicas if not replica.stopping)


def asked(rig: Rig, spec_hash: str, peers: int) -> bool:
    """Whether every host sends requests to replicas of one spec only, on itself and on so many others."""
    routes = [host.resources["routes/hello"].route for host in rig.hosts.values()]
    return all(r.only_spec_hash == spec_hash and sum(p.healthy_replicas for p in r.peers) == peers for r in routes)


async def spec_hash(rig: Rig, number: int) -> str:
    request = release_pb2.GetReleaseRequest(name=f"apps/hello/releases/{number}")
    return str((await rig.releases.GetRelease(request)).spec_hash)


async def reason(rig: Rig, rollout: str) -> str:
    return str((await rig.rollouts.GetRollout(release_pb2.GetRolloutRequest(name=rollout))).reason)


async def test_requests_go_over_when_someone_says_so_and_back_at_once(rig: Rig) -> None:
    assert (await rig.finished(await apply(rig, of("1")))).state == release_pb2.ROLLOUT_STATE_SUCCEEDED
    name = await apply(rig, of("2", manual_promotion=True))

    async def waits() -> bool:
        return "promote the rollout" in await reason(rig, name)

    await until(waits, "both releases")
    old, new = await spec_hash(rig, 1), await spec_hash(rig, 2)
    assert await releases(rig) == {1: 2, 2: 2}
    await until(lambda: asked(rig, old, 1), "only the old one is asked")
    await rig.rollouts.PromoteRollout(release_pb2.PromoteRolloutRequest(name=name))
    await until(lambda: asked(rig, new, 1), "only the new one is asked")
    assert await releases(rig) == {1: 2, 2: 2}, "the old ones are held"
    started = {host: list(rig.hosts[host].started) for host in rig.hosts}
    await rig.rollouts.AbortRollout(release_pb2.AbortRolloutRequest(name=name))
    assert (await rig.finished(name)).state == release_pb2.ROLLOUT_STATE_ABORTED
    assert await releases(rig) == {1: 2}
    await until(lambda: asked(rig, "", 1), "whatever there is, is asked")
    assert {host: rig.hosts[host].started for host in rig.hosts} == started, "nothing had to start"
    error = await error_of(rig.rollouts.PromoteRollout(release_pb2.PromoteRolloutRequest(name=name)))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_when_the_time_is_over_the_old_ones_stop(rig: Rig) -> None:
    assert (await rig.finished(await apply(rig, of("1", 1)))).state == release_pb2.ROLLOUT_STATE_SUCCEEDED
    ended = await rig.finished(await apply(rig, of("2", 1)))
    assert ended.state == release_pb2.ROLLOUT_STATE_SUCCEEDED
    assert ended.HasField("switch_time")

    async def alone() -> bool:
        return await releases(rig) == {2: 2}

    await until(alone, "the new release alone")
    app = await rig.apps.GetApp(app_pb2.GetAppRequest(name="apps/hello"))
    assert app.stable_release == "apps/hello/releases/2"


async def test_what_never_gets_healthy_is_never_asked(rig: Rig) -> None:
    assert (await rig.finished(await apply(rig, of("1")))).state == release_pb2.ROLLOUT_STATE_SUCCEEDED
    for host in rig.hosts.values():
        host.behave = lambda replica: (replica.release == 1, "it does not start")
    name = await apply(rig, of("2"))
    new = await spec_hash(rig, 2)
    assert (await rig.finished(name)).state == release_pb2.ROLLOUT_STATE_ROLLED_BACK
    assert not any(host.resources["routes/hello"].route.only_spec_hash == new for host in rig.hosts.values())
    assert "it does not start" in await reason(rig, name)
