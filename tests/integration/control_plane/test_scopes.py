"""A token that is limited to some apps is shown nothing of the others; names of replicas are unique."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from fleet.rpc.channel import operator_channel
from locci.v1 import (
    access_pb2,
    access_pb2_grpc,
    app_pb2,
    app_pb2_grpc,
    event_pb2,
    event_pb2_grpc,
    node_pb2,
    operation_pb2,
    operation_pb2_grpc,
    placement_pb2,
    placement_pb2_grpc,
    release_pb2,
    replica_pb2,
    replica_pb2_grpc,
    watch_pb2,
    watch_pb2_grpc,
)
from tests.integration.control_plane.rig import DEADLINE_S, Rig, error_of, manifest, running, until


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path) as rig:
        await rig.region("eu", 50.1, 8.7)
        for number in range(1, 3):
            await rig.host(f"eu-{number}", "eu")
        for name in ("shop", "blog"):
            answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest(name)))
            assert (await rig.finished(answer.rollout.name)).state == release_pb2.ROLLOUT_STATE_SUCCEEDED
        yield rig


@pytest.fixture
async def limited(rig: Rig) -> AsyncIterator[grpc.aio.Channel]:
    """Connected with a token for one of the apps."""
    given = access_pb2.OperatorToken(role=access_pb2.OPERATOR_ROLE_DEPLOYER, scopes=["apps/shop"], display_name="test")
    tokens = access_pb2_grpc.OperatorTokenServiceStub(rig.channel)
    token = await tokens.CreateOperatorToken(access_pb2.CreateOperatorTokenRequest(operator_token=given))
    channel = operator_channel(rig.settings.grpc_listen, rig.plane.authority.ca_pem.encode(), token.token)
    async with channel:
        yield channel


async def present(stream: Any) -> list[str]:
    """The names that a watch begins with."""
    names: list[str] = []
    async with asyncio.timeout(DEADLINE_S):
        async for change in stream:
            if change.kind == watch_pb2.Change.KIND_SYNCED:
                break
            names.append(change.name)
    stream.cancel()
    return names


async def test_lists_have_what_the_token_is_for(rig: Rig, limited: grpc.aio.Channel) -> None:
    apps = await app_pb2_grpc.AppServiceStub(limited).ListApps(app_pb2.ListAppsRequest())
    assert [app.name for app in apps.apps] == ["apps/shop"]
    everything = replica_pb2.ListReplicasRequest(parent="apps/-")
    replicas = await replica_pb2_grpc.ReplicaServiceStub(limited).ListReplicas(everything)
    assert [replica.app for replica in replicas.replicas] == ["shop"]
    operations = operation_pb2_grpc.OperationServiceStub(limited)
    found = await operations.ListOperations(operation_pb2.ListOperationsRequest())
    assert [operation.target for operation in found.operations] == ["apps/shop/rollouts/1"]
    hidden = operation_pb2.GetOperationRequest(name="operations/apps.blog.rollouts.1")
    assert (await error_of(operations.GetOperation(hidden))).code() is grpc.StatusCode.NOT_FOUND
    events = await event_pb2_grpc.EventServiceStub(limited).ListEvents(event_pb2.ListEventsRequest(page_size=500))
    subjects = {subject for event in events.events for subject in event.subjects}
    assert "apps/shop" in subjects
    assert not any(subject.startswith("apps/blog") for subject in subjects)
    whole = await rig.events.ListEvents(event_pb2.ListEventsRequest(page_size=500))
    assert any("apps/blog" in event.subjects for event in whole.events)


async def test_watches_and_plans_have_what_the_token_is_for(rig: Rig, limited: grpc.aio.Channel) -> None:
    watches = watch_pb2_grpc.WatchServiceStub(limited)
    assert await present(watches.WatchApps(watch_pb2.WatchRequest())) == ["apps/shop"]
    assert await present(watches.WatchRollouts(watch_pb2.WatchBelowRequest(parent="apps/-"))) == [
        "apps/shop/rollouts/1"
    ]
    assert all(
        name.startswith("apps/shop/")
        for name in await present(watches.WatchReplicas(watch_pb2.WatchBelowRequest(parent="apps/-")))
    )
    assert await present(watches.WatchOperations(watch_pb2.WatchRequest())) == ["operations/apps.shop.rollouts.1"]
    placement = placement_pb2_grpc.PlacementServiceStub(limited)
    for node in rig.hosts:
        plan = await placement.PlanChange(placement_pb2.PlanChangeRequest(drain_node=f"nodes/{node}"))
        assert all(change.replica.startswith("apps/shop/") for change in plan.changes)
    error = await error_of(placement.PlanChange(placement_pb2.PlanChangeRequest(delete_app="apps/blog")))
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_two_replicas_of_one_ordinal_have_two_names(rig: Rig) -> None:
    [before] = await rig.held("shop")
    for host in rig.hosts.values():
        host.behave = lambda replica: (False, "it never gets healthy here")
        host.refuse = ""
    away = before.node.rpartition("/")[2]
    rig.hosts[away].behave = lambda replica: (True, "")
    await rig.nodes.DrainNode(node_pb2.DrainNodeRequest(name=before.node))

    async def two() -> bool:
        return len(await rig.held("shop")) == 2

    await until(two, "the replacement")
    held = await rig.held("shop")
    names = sorted(replica.name for replica in held)
    other = next(name for name in rig.hosts if name != away)
    assert names[0] == "apps/shop/replicas/0-1"
    assert names[1] in (f"apps/shop/replicas/0-1@{away}", f"apps/shop/replicas/0-1@{other}")
    for replica in held:
        assert (await rig.replicas.GetReplica(replica_pb2.GetReplicaRequest(name=replica.name))).node == replica.node
        full = f"apps/shop/replicas/0-1@{replica.node.rpartition('/')[2]}"
        found = await rig.replicas.GetReplica(replica_pb2.GetReplicaRequest(name=full))
        assert (found.node, found.name) == (replica.node, replica.name)
    missing = replica_pb2.GetReplicaRequest(name="apps/shop/replicas/0-1@nowhere")
    assert (await error_of(rig.replicas.GetReplica(missing))).code() is grpc.StatusCode.NOT_FOUND
