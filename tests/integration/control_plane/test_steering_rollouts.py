"""Canaries, held rollouts and drains against a real control plane with simulated hosts over mTLS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from locci.v1 import app_pb2, event_pb2, manifest_pb2, node_pb2, release_pb2, replica_pb2
from tests.integration.control_plane.rig import Rig, error_of, manifest, running, until


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path) as rig:
        await rig.region("eu", 50.1, 8.7)
        for number in range(1, 4):
            await rig.host(f"eu-{number}", "eu")
        yield rig


def of(image: str, replicas: int = 2) -> manifest_pb2.AppManifest:
    result = manifest()
    result.image = image
    result.placement.replicas_per_region = replicas
    return result


async def placed(rig: Rig) -> dict[str, list[replica_pb2.Replica]]:
    """Replicas that are wanted, by node."""
    answer = await rig.replicas.ListReplicas(replica_pb2.ListReplicasRequest(parent="apps/-"))
    found: dict[str, list[replica_pb2.Replica]] = {}
    for replica in answer.replicas:
        if not replica.stopping:
            found.setdefault(replica.node, []).append(replica)
    return found


async def deployed(rig: Rig, replicas: int = 2) -> manifest_pb2.AppManifest:
    first = of("registry.test:5000/hello:1", replicas)
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=first))
    assert (await rig.finished(answer.rollout.name)).state == release_pb2.ROLLOUT_STATE_SUCCEEDED
    return first


async def test_a_canary_waits_for_someone_and_then_all_follow(rig: Rig) -> None:
    second = await deployed(rig)
    second.image = "registry.test:5000/hello:2"
    second.rollout.strategy = manifest_pb2.ROLLOUT_STRATEGY_CANARY
    second.rollout.manual_promotion = True
    name = (await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=second))).rollout.name

    async def waits() -> bool:
        row = await rig.rollouts.GetRollout(release_pb2.GetRolloutRequest(name=name))
        return "promote the rollout" in row.reason

    await until(waits, "the canary")
    releases = sorted(r.release for rows in (await placed(rig)).values() for r in rows)
    assert releases == [1, 2]
    await rig.rollouts.PromoteRollout(release_pb2.PromoteRolloutRequest(name=name))
    assert (await rig.finished(name)).state == release_pb2.ROLLOUT_STATE_SUCCEEDED
    assert sorted(r.release for rows in (await placed(rig)).values() for r in rows) == [2, 2]
    error = await error_of(rig.rollouts.PromoteRollout(release_pb2.PromoteRolloutRequest(name=name)))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_rollout_is_held_and_goes_on(rig: Rig) -> None:
    second = await deployed(rig)
    second.image = "registry.test:5000/hello:2"
    second.rollout.healthy_for.FromSeconds(1)
    name = (await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=second))).rollout.name
    held = await rig.rollouts.PauseRollout(release_pb2.PauseRolloutRequest(name=name))
    assert held.state == release_pb2.ROLLOUT_STATE_PAUSED
    error = await error_of(rig.rollouts.PauseRollout(release_pb2.PauseRolloutRequest(name=name)))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    resumed = await rig.rollouts.ResumeRollout(release_pb2.ResumeRolloutRequest(name=name))
    assert resumed.state == release_pb2.ROLLOUT_STATE_RUNNING
    assert (await rig.finished(name)).state == release_pb2.ROLLOUT_STATE_SUCCEEDED


async def test_a_node_is_drained_and_comes_back(rig: Rig) -> None:
    await deployed(rig)
    before = await placed(rig)
    (leaving, *_) = sorted(before)
    node = await rig.nodes.DrainNode(node_pb2.DrainNodeRequest(name=leaving, reason="new disk"))
    assert (node.condition, node.cordoned) == (node_pb2.NODE_CONDITION_DRAINING, True)

    async def drained() -> bool:
        row = await rig.nodes.GetNode(node_pb2.GetNodeRequest(name=leaving))
        return row.condition_reason.startswith("drained")

    await until(drained, "the drain")
    after = await placed(rig)
    assert leaving not in after
    assert sum(map(len, after.values())) == 2
    node = await rig.nodes.UndrainNode(node_pb2.UndrainNodeRequest(name=leaving))
    assert not node.cordoned

    async def ready() -> bool:
        row = await rig.nodes.GetNode(node_pb2.GetNodeRequest(name=leaving))
        return row.condition == node_pb2.NODE_CONDITION_READY

    await until(ready, "the node's return")
    assert (await error_of(rig.nodes.UndrainNode(node_pb2.UndrainNodeRequest(name=leaving)))).code() is (
        grpc.StatusCode.FAILED_PRECONDITION
    )


async def test_what_cannot_be_moved_stays_until_the_deadline(rig: Rig) -> None:
    await deployed(rig, replicas=3)
    for name in ("nodes/eu-2", "nodes/eu-3"):
        await rig.nodes.CordonNode(node_pb2.CordonNodeRequest(name=name))
    request = node_pb2.DrainNodeRequest(name="nodes/eu-1")
    request.deadline.FromSeconds(2)
    await rig.nodes.DrainNode(request)
    app = await rig.apps.GetApp(app_pb2.GetAppRequest(name="apps/hello"))
    assert len((await placed(rig))["nodes/eu-1"]) == 1

    async def explained() -> bool:
        row = await rig.apps.GetApp(app_pb2.GetAppRequest(name=app.name))
        return any("drains; none of the 3 nodes" in problem for problem in row.placement_problems)

    await until(explained, "the reason")

    async def gone() -> bool:
        return "nodes/eu-1" not in await placed(rig)

    await until(gone, "the deadline")


async def test_an_app_is_scaled_and_what_stays_is_not_restarted(rig: Rig) -> None:
    await deployed(rig)
    before = {(r.ordinal, r.node, r.spec_hash) for rows in (await placed(rig)).values() for r in rows}
    plan = await rig.apps.ScaleApp(
        app_pb2.ScaleAppRequest(name="apps/hello", replicas_per_region=3, validate_only=True)
    )
    assert [change.action for change in plan.changes] == [app_pb2.PlannedChange.ACTION_START]
    assert sum(map(len, (await placed(rig)).values())) == 2
    answer = await rig.apps.ScaleApp(app_pb2.ScaleAppRequest(name="apps/hello", replicas_per_region=3))
    assert (await rig.finished(answer.rollout.name)).state == release_pb2.ROLLOUT_STATE_SUCCEEDED
    after = {(r.ordinal, r.node, r.spec_hash) for rows in (await placed(rig)).values() for r in rows}
    assert before < after
    assert len(after) == 3
    for request in (
        app_pb2.ScaleAppRequest(name="apps/hello"),
        app_pb2.ScaleAppRequest(name="apps/hello", replicas=2, replicas_per_region=2),
    ):
        assert (await error_of(rig.apps.ScaleApp(request))).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_has_no_canary_cannot_be_promoted_and_a_held_rollout_gets_its_time_anew(rig: Rig) -> None:
    second = await deployed(rig)
    second.image = "registry.test:5000/hello:2"
    name = (await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=second))).rollout.name
    error = await error_of(rig.rollouts.PromoteRollout(release_pb2.PromoteRolloutRequest(name=name)))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    await rig.finished(name)


async def test_what_an_app_asks_of_the_choice_among_replicas_reaches_its_nodes(rig: Rig) -> None:
    wanted = of("registry.test:5000/hello:1")
    wanted.balancing.sticky_cookie = "stay"
    wanted.balancing.hash_by = manifest_pb2.HASH_BY_HEADER
    error = await error_of(rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=wanted)))
    assert "manifest.balancing.hash_name: says which header field" in str(error.details())
    wanted.balancing.hash_name = "X-User"
    wanted.balancing.hedge_after.FromMilliseconds(250)
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=wanted))
    await rig.finished(answer.rollout.name)
    for host in rig.hosts.values():
        await until(lambda host=host: "routes/hello" in host.resources, "the route is there")
        assert host.resources["routes/hello"].route.balancing == wanted.balancing


async def test_what_an_app_asks_of_edges_reaches_its_nodes_and_so_does_maintenance(rig: Rig) -> None:
    wanted = of("registry.test:5000/hello:1")
    wanted.http.redirects.add(path="/old", location="/old")
    error = await error_of(rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=wanted)))
    assert "manifest.http.redirects[0]: " in str(error.details())
    assert "is sent on and on by it" in str(error.details())
    wanted.http.redirects[0].location = "/new"
    wanted.http.redirects[0].status = 301
    wanted.http.rewrites.add(prefix="/api", target="/v1{rest}", hostnames=wanted.hostnames[:1])
    wanted.http.request_headers.add.add(name="X-From", value="edge")
    wanted.http.response_headers.remove.append("Server")
    wanted.http.response_headers.set.add(name="X-Frame-Options", value="DENY")
    wanted.http.error_pages.add(statuses=[502, 503], html="<h1>{status}</h1>", replace_app=True)
    wanted.http.maintenance.html = "<p>later</p>"
    wanted.http.maintenance.allow.append("192.0.2.0/24")
    wanted.http.maintenance.retry_after.FromSeconds(90)
    wanted.http.limits.MergeFrom(manifest_pb2.TrafficLimits(client_rate=5, rate=50.5, max_body_bytes=1000))
    wanted.http.limits.max_in_progress = 8
    wanted.http.limits.window.FromSeconds(5)
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=wanted))
    await rig.finished(answer.rollout.name)
    for host in rig.hosts.values():
        await until(lambda host=host: "routes/hello" in host.resources, "the route is there")
        assert host.resources["routes/hello"].route.http == wanted.http
        assert not host.resources["routes/hello"].route.maintenance
    request = app_pb2.SetMaintenanceRequest(name="apps/hello", on=True, validate_only=True)
    assert not (await rig.apps.SetMaintenance(request)).maintenance
    request.validate_only = False
    assert (await rig.apps.SetMaintenance(request)).maintenance
    for host in rig.hosts.values():
        await until(lambda host=host: host.resources["routes/hello"].route.maintenance, "the word of it")
    wanted.labels["a"] = "b"
    again = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=wanted))
    assert again.app.maintenance, "a release changes nothing about it"
    await rig.finished(again.rollout.name)
    request.on, request.etag = False, "0"
    assert (await error_of(rig.apps.SetMaintenance(request))).code() is grpc.StatusCode.ABORTED
    request.etag = ""
    assert not (await rig.apps.SetMaintenance(request)).maintenance
    for host in rig.hosts.values():
        await until(lambda host=host: not host.resources["routes/hello"].route.maintenance, "the end of it")
    for kind in ("MaintenanceBegan", "MaintenanceEnded"):
        assert len((await rig.events.ListEvents(event_pb2.ListEventsRequest(type=kind))).events) == 1
