"""Roles, scopes and the audit over real gRPC and TLS."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from fleet.rpc.channel import operator_channel
from locci.v1 import access_pb2, access_pb2_grpc, app_pb2, app_pb2_grpc, manifest_pb2, region_pb2, region_pb2_grpc
from tests.integration.control_plane.rig import Rig, running

VIEWER, DEPLOYER = access_pb2.OPERATOR_ROLE_VIEWER, access_pb2.OPERATOR_ROLE_DEPLOYER


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path) as rig:
        await rig.region("eu", 50.1, 8.7)
        yield rig


def as_(rig: Rig, token: str) -> grpc.aio.Channel:
    return operator_channel(rig.settings.grpc_listen, rig.plane.authority.ca_pem.encode(), token)


async def token_of(rig: Rig, role: access_pb2.OperatorRole.ValueType, *scopes: str) -> access_pb2.OperatorToken:
    given = access_pb2.OperatorToken(role=role, scopes=scopes, display_name="test")
    stub = access_pb2_grpc.OperatorTokenServiceStub(rig.channel)
    return await stub.CreateOperatorToken(access_pb2.CreateOperatorTokenRequest(operator_token=given))


async def test_a_viewer_looks_and_a_deployer_deploys_what_it_may(rig: Rig) -> None:
    viewer = await token_of(rig, VIEWER)
    async with as_(rig, viewer.token) as channel:
        apps = app_pb2_grpc.AppServiceStub(channel)
        await apps.ListApps(app_pb2.ListAppsRequest())
        manifest = manifest_pb2.AppManifest(name="shop-web", image="registry.test:5000/hello:1")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "needs the role deployer" in (caught.value.details() or "")
    deployer = await token_of(rig, DEPLOYER, "apps/shop-*")
    async with as_(rig, deployer.token) as channel:
        apps = app_pb2_grpc.AppServiceStub(channel)
        await apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest))
        manifest.name = "blog"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest))
        assert "limited to apps/shop-*" in (caught.value.details() or "")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await region_pb2_grpc.RegionServiceStub(channel).DeleteRegion(
                region_pb2.DeleteRegionRequest(name="regions/eu")
            )
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_token_that_was_taken_back_is_refused(rig: Rig) -> None:
    viewer = await token_of(rig, VIEWER)
    stub = access_pb2_grpc.OperatorTokenServiceStub(rig.channel)
    listed = await stub.ListOperatorTokens(access_pb2.ListOperatorTokensRequest())
    assert viewer.name in {row.name for row in listed.operator_tokens}
    assert not any(row.token for row in listed.operator_tokens)
    await stub.DeleteOperatorToken(access_pb2.DeleteOperatorTokenRequest(name=viewer.name))
    async with as_(rig, viewer.token) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await app_pb2_grpc.AppServiceStub(channel).ListApps(app_pb2.ListAppsRequest())
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_token_ends(rig: Rig) -> None:
    given = access_pb2.OperatorToken(role=VIEWER)
    given.ttl.FromSeconds(1)
    stub = access_pb2_grpc.OperatorTokenServiceStub(rig.channel)
    short = await stub.CreateOperatorToken(access_pb2.CreateOperatorTokenRequest(operator_token=given))
    row = rig.plane.state.operator_tokens.copy(short.name)
    row.expire_time.FromSeconds(int(rig.plane.clock.wall()) - 1)
    await rig.plane.state.transact(lambda batch: batch.put(rig.plane.state.operator_tokens, row.name, row))
    async with as_(rig, short.token) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await app_pb2_grpc.AppServiceStub(channel).ListApps(app_pb2.ListAppsRequest())
        assert "has ended" in (caught.value.details() or "")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (access_pb2.OperatorToken(), "viewer, deployer, operator or admin"),
        (access_pb2.OperatorToken(role=VIEWER, scopes=["nodes/x"]), "apps/shop-*"),
        (access_pb2.OperatorToken(role=VIEWER, display_name="x" * 101), "longer than"),
    ],
)
async def test_tokens_that_cannot_be(rig: Rig, given: access_pb2.OperatorToken, says: str) -> None:
    stub = access_pb2_grpc.OperatorTokenServiceStub(rig.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CreateOperatorToken(access_pb2.CreateOperatorTokenRequest(operator_token=given))
    assert says in (caught.value.details() or "")


async def test_every_change_leaves_a_record_in_an_unbroken_chain(rig: Rig) -> None:
    viewer = await token_of(rig, VIEWER)
    manifest = manifest_pb2.AppManifest(name="web", image="registry.test:5000/hello:1", env={"PASSWORD": "canary-7"})
    await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest))
    await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest))
    async with as_(rig, viewer.token) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await app_pb2_grpc.AppServiceStub(channel).DeleteApp(app_pb2.DeleteAppRequest(name="apps/web"))
    with pytest.raises(grpc.aio.AioRpcError):
        await rig.apps.DeleteApp(app_pb2.DeleteAppRequest(name="apps/nothing"))
    audit = access_pb2_grpc.AuditServiceStub(rig.channel)
    listed = await audit.ListAuditRecords(access_pb2.ListAuditRecordsRequest())
    found = [(r.method, r.resource, r.code) for r in listed.audit_records]
    assert ("AppService.ApplyApp", "apps/web", "OK") in found
    assert found.count(("AppService.ApplyApp", "apps/web", "OK")) == 2
    assert ("AppService.DeleteApp", "apps/web", "PERMISSION_DENIED") in found
    assert ("AppService.DeleteApp", "apps/nothing", "NOT_FOUND") in found
    assert [r.name for r in listed.audit_records] == [f"auditRecords/{n + 1}" for n in range(len(found))]
    assert all(r.source and r.principal for r in listed.audit_records)
    assert "canary-7" not in str(listed)
    assert viewer.token.rpartition(".")[2] not in str(listed)
    verified = await audit.VerifyAudit(access_pb2.VerifyAuditRequest())
    assert (verified.whole, verified.records, verified.head) == (True, len(found), listed.audit_records[-1].hash)


async def test_a_record_that_was_changed_in_the_store_is_found(rig: Rig) -> None:
    for _ in range(3):
        await token_of(rig, VIEWER)
    path = rig.settings.data_dir / "locci.db"
    await rig.stop()
    with sqlite3.connect(path) as store:
        rows = store.execute("select name, body from objects where kind = 'auditRecords' order by name").fetchall()
        record = access_pb2.AuditRecord.FromString(rows[1][1])
        record.principal = "operators/somebody-else"
        changed = (record.SerializeToString(), rows[1][0])
        store.execute("update objects set body = ? where kind = 'auditRecords' and name = ?", changed)
    await rig.start()
    audit = access_pb2_grpc.AuditServiceStub(rig.channel)
    verified = await audit.VerifyAudit(access_pb2.VerifyAuditRequest())
    assert not verified.whole
    assert json.dumps(verified.problem).startswith(f'"{record.name} was changed')


async def test_when_a_token_was_used_last_is_kept(rig: Rig) -> None:
    tokens = access_pb2_grpc.OperatorTokenServiceStub(rig.channel)
    wanted = access_pb2.OperatorToken(role=access_pb2.OPERATOR_ROLE_VIEWER, display_name="bot")
    made = await tokens.CreateOperatorToken(access_pb2.CreateOperatorTokenRequest(operator_token=wanted))
    assert (await rig.plane.authenticate(made.token)).role == "viewer"
    table = rig.plane.state.operator_tokens
    assert abs(table.need(made.name).last_use_time.seconds - rig.plane.clock.wall()) < 60
    revision = table.revision(made.name)
    await rig.plane.authenticate(made.token)
    assert table.revision(made.name) == revision, "not with each use"
