"""Operations and watches over gRPC, with simulated hosts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fleet.rpc.errors import from_rpc_error
from locci.v1 import (
    app_pb2,
    drill_pb2,
    node_pb2,
    operation_pb2,
    operation_pb2_grpc,
    region_pb2,
    watch_pb2,
    watch_pb2_grpc,
)
from tests.integration.control_plane.rig import Rig, error_of, manifest, running

Operation = operation_pb2.LongRunningOperation
Change = watch_pb2.Change


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path) as rig:
        await rig.region("eu", 50.1, 8.7)
        await rig.host("eu-1", "eu")
        yield rig


async def seen(stream: Any, enough: Any) -> list[Change]:
    """Changes until `enough` holds for one."""
    found: list[Change] = []
    async with asyncio.timeout(15):
        async for change in stream:
            found.append(change)
            if enough(change):
                break
    stream.cancel()
    return found


async def test_a_rollout_is_an_operation(rig: Rig) -> None:
    operations = operation_pb2_grpc.OperationServiceStub(rig.channel)
    answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest()))
    name = "operations/apps.hello.rollouts.1"
    stream = operations.WatchOperation(operation_pb2.GetOperationRequest(name=name))
    watched = [operation async for operation in stream]
    assert watched[-1].state == Operation.STATE_SUCCEEDED
    assert all(not operation.done for operation in watched[:-1])
    waited = await operations.WaitOperation(operation_pb2.WaitOperationRequest(name=name))
    assert (waited.done, waited.target, waited.kind) == (True, answer.rollout.name, "rollout")
    assert waited.steps_done == waited.steps == 1
    cancel = operations.CancelOperation(operation_pb2.CancelOperationRequest(name=name))
    assert from_rpc_error(await error_of(cancel)).reason == "OPERATION_DONE"
    missing = operations.GetOperation(operation_pb2.GetOperationRequest(name="operations/apps.hello.rollouts.9"))
    assert from_rpc_error(await error_of(missing)).code.name == "NOT_FOUND"


async def test_an_operation_is_cancelled_by_its_name(rig: Rig) -> None:
    operations = operation_pb2_grpc.OperationServiceStub(rig.channel)
    first = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest()))
    await rig.finished(first.rollout.name)
    rig.hosts["eu-1"].behave = lambda replica: (replica.release == 1, "")
    slow = manifest()
    slow.env["SLOW"] = "1"
    slow.rollout.health_deadline.FromSeconds(600)
    await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=slow))
    name = "operations/apps.hello.rollouts.2"
    wait = operation_pb2.WaitOperationRequest(name=name)
    wait.timeout.FromMilliseconds(100)
    running_still = await operations.WaitOperation(wait)
    assert (running_still.done, running_still.cancellable) == (False, True)
    await operations.CancelOperation(operation_pb2.CancelOperationRequest(name=name))
    await rig.finished("apps/hello/rollouts/2")
    ended = await operations.GetOperation(operation_pb2.GetOperationRequest(name=name))
    assert ended.done
    listed = await operations.ListOperations(
        operation_pb2.ListOperationsRequest(filter="kind = rollout AND done = true", order_by="create_time desc")
    )
    assert listed.operations[0].name == name


async def test_the_run_of_a_drill_is_an_operation(rig: Rig) -> None:
    operations = operation_pb2_grpc.OperationServiceStub(rig.channel)
    spec = drill_pb2.DrillSpec(fault=drill_pb2.FAULT_KIND_REGION_CUT, target="regions/eu", hostname="hello.example.net")
    await rig.drills.CreateDrill(drill_pb2.CreateDrillRequest(drill_id="monthly", drill=drill_pb2.Drill(spec=spec)))
    await rig.drills.CreateDrillRun(drill_pb2.CreateDrillRunRequest(parent="drills/monthly", run=drill_pb2.DrillRun()))
    answer = await operations.ListOperations(operation_pb2.ListOperationsRequest(filter="kind = drill"))
    assert [operation.target for operation in answer.operations] == ["drills/monthly/runs/1"]
    assert answer.operations[0].done


async def test_a_watch_begins_with_what_is_there_and_goes_on_with_changes(rig: Rig) -> None:
    watches = watch_pb2_grpc.WatchServiceStub(rig.channel)
    stream = watches.WatchRegions(watch_pb2.WatchRequest())

    async def change() -> None:
        await asyncio.sleep(0.3)
        await rig.region("us")
        region = region_pb2.Region(name="regions/us", display_name="East")
        await asyncio.sleep(0.3)
        await rig.regions.UpdateRegion(region_pb2.UpdateRegionRequest(region=region))
        await asyncio.sleep(0.3)
        await rig.regions.DeleteRegion(region_pb2.DeleteRegionRequest(name="regions/us"))

    changing = asyncio.create_task(change())
    found = await seen(stream, lambda c: c.kind == Change.KIND_REMOVED)
    await changing
    assert [(c.kind, c.name) for c in found] == [
        (Change.KIND_PRESENT, "regions/eu"),
        (Change.KIND_SYNCED, ""),
        (Change.KIND_PRESENT, "regions/us"),
        (Change.KIND_CHANGED, "regions/us"),
        (Change.KIND_REMOVED, "regions/us"),
    ]
    assert found[3].region.display_name == "East"


async def test_what_passes_the_filter_no_more_is_told_as_removed(rig: Rig) -> None:
    watches = watch_pb2_grpc.WatchServiceStub(rig.channel)
    stream = watches.WatchNodes(watch_pb2.WatchRequest(filter="cordoned = false"))

    async def cordon() -> None:
        await asyncio.sleep(0.5)
        await rig.nodes.CordonNode(node_pb2.CordonNodeRequest(name="nodes/eu-1"))

    cordoning = asyncio.create_task(cordon())
    found = await seen(stream, lambda c: c.kind == Change.KIND_REMOVED)
    await cordoning
    assert found[0].node.name == "nodes/eu-1"
    assert len(found) <= 4, "a heartbeat is no change"


async def test_replicas_rollouts_apps_and_operations_are_watched(rig: Rig) -> None:
    watches = watch_pb2_grpc.WatchServiceStub(rig.channel)
    below = watch_pb2.WatchBelowRequest(parent="apps/-")
    streams = {
        "replica": (watches.WatchReplicas(below), lambda c: c.replica.healthy),
        "rollout": (watches.WatchRollouts(below), lambda c: c.rollout.HasField("end_time")),
        "app": (watches.WatchApps(watch_pb2.WatchRequest()), lambda c: c.app.healthy_replicas == 1),
        "operation": (watches.WatchOperations(watch_pb2.WatchRequest()), lambda c: c.operation.done),
    }
    readers = {kind: asyncio.create_task(seen(*stream)) for kind, stream in streams.items()}
    await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest()))
    for kind, reader in readers.items():
        assert {c.WhichOneof("resource") for c in await reader} == {None, kind}
    missing = watches.WatchReplicas(watch_pb2.WatchBelowRequest(parent="apps/none"))
    assert from_rpc_error(await error_of(missing.read())).code.name == "NOT_FOUND"
    bad = watches.WatchApps(watch_pb2.WatchRequest(filter="nome = x"))
    assert from_rpc_error(await error_of(bad.read())).field == "filter"
