"""What must not get round the gate before the services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from locci.v1 import access_pb2, access_pb2_grpc, node_pb2, region_pb2, region_pb2_grpc, watch_pb2, watch_pb2_grpc
from tests.integration.control_plane.rig import Rig, running
from tests.integration.control_plane.test_access import as_, token_of

ADMIN, VIEWER = access_pb2.OPERATOR_ROLE_ADMIN, access_pb2.OPERATOR_ROLE_VIEWER


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path) as rig:
        await rig.region("eu", 50.1, 8.7)
        yield rig


async def test_a_scoped_token_makes_no_token_without_scopes(rig: Rig) -> None:
    scoped = await token_of(rig, ADMIN, "apps/shop-*")
    async with as_(rig, scoped.token) as channel:
        stub = access_pb2_grpc.OperatorTokenServiceStub(channel)
        given = access_pb2.OperatorToken(name="apps/shop-web", role=ADMIN)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CreateOperatorToken(access_pb2.CreateOperatorTokenRequest(operator_token=given))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_scoped_token_makes_no_region_that_calls_itself_an_app(rig: Rig) -> None:
    scoped = await token_of(rig, access_pb2.OPERATOR_ROLE_OPERATOR, "apps/shop-*")
    async with as_(rig, scoped.token) as channel:
        stub = region_pb2_grpc.RegionServiceStub(channel)
        region = region_pb2.Region(name="apps/shop-web", latitude=40, longitude=-74, continent="NA", country="US")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CreateRegion(region_pb2.CreateRegionRequest(region_id="us", region=region))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_request_that_was_wrong_may_be_mended_under_its_id(rig: Rig) -> None:
    stub = access_pb2_grpc.OperatorTokenServiceStub(rig.channel)
    request_id = "7f1f5d0e-6f0e-4a52-9d3f-0f2b7d8c1a11"
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.CreateOperatorToken(asking(access_pb2.OperatorToken(), request_id))
    made = await stub.CreateOperatorToken(asking(access_pb2.OperatorToken(role=VIEWER), request_id))
    assert made.token
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CreateOperatorToken(asking(access_pb2.OperatorToken(role=VIEWER), request_id))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def asking(token: access_pb2.OperatorToken, request_id: str) -> access_pb2.CreateOperatorTokenRequest:
    return access_pb2.CreateOperatorTokenRequest(operator_token=token, request_id=request_id)


async def to_the_end(watch: grpc.aio.UnaryStreamCall[watch_pb2.WatchRequest, watch_pb2.Change]) -> None:
    while await watch.read() != grpc.aio.EOF:
        pass


@pytest.mark.parametrize("how", ["taken back", "ended"])
async def test_a_watch_ends_with_the_token_that_opened_it(rig: Rig, how: str) -> None:
    viewer = await token_of(rig, VIEWER)
    async with as_(rig, viewer.token) as channel:
        watch = watch_pb2_grpc.WatchServiceStub(channel).WatchRegions(watch_pb2.WatchRequest())
        assert await watch.read() != grpc.aio.EOF
        if how == "taken back":
            stub = access_pb2_grpc.OperatorTokenServiceStub(rig.channel)
            await stub.DeleteOperatorToken(access_pb2.DeleteOperatorTokenRequest(name=viewer.name))
        else:
            table = rig.plane.state.operator_tokens
            row = table.copy(viewer.name)
            row.expire_time.FromSeconds(int(rig.plane.clock.wall()) - 1)
            await rig.plane.state.transact(lambda batch: batch.put(table, row.name, row))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(to_the_end(watch), 5)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("dry", [True, False])
async def test_whatever_is_changed_is_recorded_also_when_it_says_that_it_changes_nothing(rig: Rig, dry: bool) -> None:
    audit = access_pb2_grpc.AuditServiceStub(rig.channel)
    before = await audit.VerifyAudit(access_pb2.VerifyAuditRequest())
    revision = rig.plane.state.revision
    region = region_pb2.Region(latitude=40, longitude=-74, continent="NA", country="US")
    asked = region_pb2.CreateRegionRequest(region_id="us", region=region, validate_only=dry)
    await rig.regions.CreateRegion(asked)
    after = await audit.VerifyAudit(access_pb2.VerifyAuditRequest())
    assert after.records - before.records == (rig.plane.state.revision > revision) == (not dry)


async def test_dry_runs_of_nodes_change_nothing_and_refuse_what_would_be_refused(rig: Rig) -> None:
    await rig.host("eu-1", "eu")
    revision = rig.plane.state.revision
    for request, call in (
        (node_pb2.DeleteNodeRequest(name="nodes/eu-1", force=True, validate_only=True), rig.nodes.DeleteNode),
        (node_pb2.CordonNodeRequest(name="nodes/eu-1", validate_only=True), rig.nodes.CordonNode),
        (node_pb2.RevokeNodeRequest(name="nodes/eu-1", validate_only=True), rig.nodes.RevokeNode),
        (node_pb2.DrainNodeRequest(name="nodes/eu-1", validate_only=True), rig.nodes.DrainNode),
    ):
        await call(request)
    shown = await rig.nodes.CordonNode(node_pb2.CordonNodeRequest(name="nodes/eu-1", validate_only=True))
    assert shown.cordoned, "the answer is the node as it would be"
    for refused, call in (
        (node_pb2.UndrainNodeRequest(name="nodes/eu-1", validate_only=True), rig.nodes.UndrainNode),
        (node_pb2.DeleteNodeRequest(name="nodes/eu-1", validate_only=True), rig.nodes.DeleteNode),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(refused)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert rig.plane.state.revision == revision
    node = await rig.nodes.GetNode(node_pb2.GetNodeRequest(name="nodes/eu-1"))
    assert (node.condition, node.cordoned) == (node_pb2.NODE_CONDITION_READY, False)
