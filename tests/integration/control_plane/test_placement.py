"""What changes would do, and balance on request, against a real control plane with simulated hosts over mTLS."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from locci.v1 import app_pb2, manifest_pb2, node_pb2, placement_pb2, placement_pb2_grpc, release_pb2, replica_pb2
from tests.integration.control_plane.rig import Rig, error_of, manifest, running, until

Planned = app_pb2.PlannedChange


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path) as rig:
        await rig.region("eu", 50.1, 8.7)
        for number in range(1, 3):
            await rig.host(f"eu-{number}", "eu")
        yield rig


async def deployed(rig: Rig, replicas: int = 4, **placement: bool) -> None:
    app = manifest()
    app.placement.CopyFrom(manifest_pb2.Placement(replicas_per_region=replicas, **placement))
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=app))
    assert (await rig.finished(answer.rollout.name)).state == release_pb2.ROLLOUT_STATE_SUCCEEDED


async def held(rig: Rig) -> Counter[str]:
    answer = await rig.replicas.ListReplicas(replica_pb2.ListReplicasRequest(parent="apps/hello"))
    return Counter(replica.node for replica in answer.replicas if not replica.stopping)


async def test_a_plan_says_what_a_drain_would_move_and_changes_nothing(rig: Rig) -> None:
    await deployed(rig)
    placement = placement_pb2_grpc.PlacementServiceStub(rig.channel)
    before, revision = await held(rig), rig.plane.state.revision
    plan = await placement.PlanChange(placement_pb2.PlanChangeRequest(drain_node="nodes/eu-1"))
    assert plan.allowed
    assert [(c.action, c.from_node, c.node) for c in plan.changes] == [
        (Planned.ACTION_MOVE, "nodes/eu-1", "nodes/eu-2")
    ] * before["nodes/eu-1"]
    assert "drains" in plan.changes[0].reason
    gone = await placement.PlanChange(placement_pb2.PlanChangeRequest(delete_node="nodes/eu-1"))
    assert not gone.allowed
    assert "connected" in gone.refusal
    assert len(gone.changes) == before["nodes/eu-1"]
    assert not (await placement.PlanChange(placement_pb2.PlanChangeRequest(cordon_node="nodes/eu-1"))).changes
    all_gone = await placement.PlanChange(placement_pb2.PlanChangeRequest(delete_app="apps/hello"))
    assert [c.action for c in all_gone.changes] == [Planned.ACTION_STOP] * 4
    region = await placement.PlanChange(placement_pb2.PlanChangeRequest(delete_region="regions/eu"))
    assert not region.allowed
    assert {c.action for c in region.changes} == {Planned.ACTION_STOP}
    back = await placement.PlanChange(placement_pb2.PlanChangeRequest(rollback_app="apps/hello"))
    assert not back.allowed
    assert "no good release" in back.refusal
    assert (await held(rig), rig.plane.state.revision) == (before, revision)
    for wrong in (
        placement_pb2.PlanChangeRequest(),
        placement_pb2.PlanChangeRequest(drain_node="nodes/none"),
        placement_pb2.PlanChangeRequest(drain_node="eu-1"),
    ):
        error = await error_of(placement.PlanChange(wrong))
        assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


async def test_a_rebalance_moves_what_it_said_and_ends(rig: Rig) -> None:
    await deployed(rig, 6)
    await rig.host("eu-3", "eu")

    async def third_is_ready() -> bool:
        node = await rig.nodes.GetNode(node_pb2.GetNodeRequest(name="nodes/eu-3"))
        return node.condition == node_pb2.NODE_CONDITION_READY

    await until(third_is_ready, "the new node")
    placement = placement_pb2_grpc.PlacementServiceStub(rig.channel)
    dry = await placement.Rebalance(placement_pb2.RebalanceRequest(app="apps/hello", validate_only=True))
    assert [c.node for c in dry.changes] == ["nodes/eu-3"] * 2
    assert (await held(rig))["nodes/eu-3"] == 0
    begun = await placement.Rebalance(placement_pb2.RebalanceRequest(app="apps/-", max_moves=2, request_id="r-1"))
    assert list(begun.changes) == list(dry.changes)

    async def balanced() -> bool:
        app = await rig.apps.GetApp(app_pb2.GetAppRequest(name="apps/hello"))
        return app.rebalance_moves == 0 and set((await held(rig)).values()) == {2}

    await until(balanced, "two on each node")
    assert not (await placement.Rebalance(placement_pb2.RebalanceRequest(app="apps/hello"))).changes
    app = await rig.apps.GetApp(app_pb2.GetAppRequest(name="apps/hello"))
    assert app.rebalance_moves == 0, "where nothing helps nothing begins"
    error = await error_of(placement.Rebalance(placement_pb2.RebalanceRequest(app="apps/hello", max_moves=1000)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_singletons_are_not_moved(rig: Rig) -> None:
    app = manifest()
    app.placement.CopyFrom(manifest_pb2.Placement(singleton=True))
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=app))
    assert (await rig.finished(answer.rollout.name)).state == release_pb2.ROLLOUT_STATE_SUCCEEDED
    placement = placement_pb2_grpc.PlacementServiceStub(rig.channel)
    error = await error_of(placement.Rebalance(placement_pb2.RebalanceRequest(app="apps/hello")))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_rollback_can_be_tried_without_doing_it(rig: Rig) -> None:
    await deployed(rig, 2)
    app = manifest()
    app.image = "registry.test:5000/hello:2"
    app.placement.CopyFrom(manifest_pb2.Placement(replicas_per_region=2))
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=app))
    assert (await rig.finished(answer.rollout.name)).state == release_pb2.ROLLOUT_STATE_SUCCEEDED
    revision = rig.plane.state.revision
    dry = await rig.rollouts.RollbackApp(release_pb2.RollbackAppRequest(name="apps/hello", validate_only=True))
    assert dry.to_release == "apps/hello/releases/1"
    placement = placement_pb2_grpc.PlacementServiceStub(rig.channel)
    plan = await placement.PlanChange(placement_pb2.PlanChangeRequest(rollback_app="apps/hello"))
    assert plan.allowed
    assert [c.action for c in plan.changes] == [Planned.ACTION_REPLACE] * 2
    assert rig.plane.state.revision == revision
