"""Secrets: versions that releases keep, who gets them, and that values are seen by nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from locci.v1 import (
    access_pb2,
    access_pb2_grpc,
    app_pb2,
    event_pb2,
    manifest_pb2,
    release_pb2,
    replica_pb2,
    secret_pb2,
    secret_pb2_grpc,
)
from tests.integration.control_plane.rig import Rig, manifest, running, until

CANARY = b"canary-7f3a"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path) as rig:
        await rig.region("eu")
        yield rig


def service(rig: Rig) -> secret_pb2_grpc.SecretServiceStub:
    return secret_pb2_grpc.SecretServiceStub(rig.channel)


async def create(rig: Rig, name: str = "db", value: bytes = CANARY) -> secret_pb2.Secret:
    return await service(rig).CreateSecret(secret_pb2.CreateSecretRequest(secret_id=name, value=value))


async def add(rig: Rig, value: bytes) -> secret_pb2.Secret:
    return await service(rig).AddSecretVersion(secret_pb2.AddSecretVersionRequest(name="secrets/db", value=value))


def wants(**mount: object) -> manifest_pb2.AppManifest:
    made = manifest()
    made.secrets.add(**({"secret": "db"} | mount))  # type: ignore[arg-type]
    return made


async def apply(rig: Rig, wanted: manifest_pb2.AppManifest) -> app_pb2.ApplyAppResponse:
    return await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=wanted))


async def test_a_release_keeps_the_version_that_it_was_made_with(rig: Rig) -> None:
    host = await rig.host("eu-1", "eu")
    other = await rig.host("eu-2", "eu")
    await create(rig)
    first = await apply(rig, wants())
    assert first.release.manifest.secrets[0].version == 1
    assert (await rig.finished(first.rollout.name)).state == release_pb2.ROLLOUT_STATE_SUCCEEDED
    held = [h for h in (host, other) if "secrets/db/1" in h.resources]
    assert len(held) == 1
    assert held[0].resources["secrets/db/1"].secret.value == CANARY

    assert [v.number for v in (await add(rig, b"newer")).versions] == [1, 2]
    assert (await apply(rig, wants(version=1))).unchanged
    second = await apply(rig, wants())
    assert second.release.manifest.secrets[0].version == 2
    assert second.release.spec_hash != first.release.spec_hash
    assert (await rig.finished(second.rollout.name)).state == release_pb2.ROLLOUT_STATE_SUCCEEDED
    await until(lambda: not any("secrets/db/1" in h.resources for h in (host, other)), "the old one is taken back")
    assert any(h.resources.get("secrets/db/2") for h in (host, other))


async def test_what_is_needed_is_not_destroyed(rig: Rig) -> None:
    await rig.host("eu-1", "eu")
    await create(rig)
    await add(rig, b"two")
    done = await apply(rig, wants(version=1))
    await rig.finished(done.rollout.name)
    with pytest.raises(grpc.aio.AioRpcError, match="is needed by apps/hello/releases/1"):
        await service(rig).DestroySecretVersion(secret_pb2.DestroySecretVersionRequest(name="secrets/db", number=1))
    with pytest.raises(grpc.aio.AioRpcError, match="is needed by"):
        await service(rig).DeleteSecret(secret_pb2.DeleteSecretRequest(name="secrets/db"))
    await rig.finished((await apply(rig, manifest())).rollout.name)
    destroy = secret_pb2.DestroySecretVersionRequest(name="secrets/db", number=1)
    assert (await service(rig).DestroySecretVersion(destroy)).versions[0].destroyed
    with pytest.raises(grpc.aio.AioRpcError, match="version 1 of secret db is gone"):
        await rig.rollouts.RollbackApp(
            release_pb2.RollbackAppRequest(name="apps/hello", release="apps/hello/releases/1")
        )
    await service(rig).DeleteSecret(secret_pb2.DeleteSecretRequest(name="secrets/db"))
    with pytest.raises(grpc.aio.AioRpcError, match="there is no secret db"):
        await apply(rig, wants())


async def test_what_is_refused(rig: Rig) -> None:
    await create(rig, value=b"\xff\0")
    for wanted, why in (
        (wants(env="DB"), "is not text"),
        (wants(version=9), "has no version 9; there are: 1"),
        (wants(env="DB", path="/x"), "not both"),
        (wants(env="1DB"), "is no name of an environment variable"),
        (wants(path="relative"), "must be absolute"),
        (wants(secret="Db"), "Db"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await apply(rig, wanted)
        assert why in (error.value.details() or ""), error.value.details()
    for value in (b"", b"x" * 65_537):
        with pytest.raises(grpc.aio.AioRpcError, match="are not from 1 to 65536"):
            await create(rig, "big", value)


async def test_a_value_is_seen_by_no_one_else(rig: Rig) -> None:
    await rig.host("eu-1", "eu")
    await create(rig)
    done = await apply(rig, wants(env="DB"))
    await rig.finished(done.rollout.name)
    audit = access_pb2_grpc.AuditServiceStub(rig.channel)
    said = [
        (await service(rig).ListSecrets(secret_pb2.ListSecretsRequest())).SerializeToString(),
        (await rig.events.ListEvents(event_pb2.ListEventsRequest())).SerializeToString(),
        (await audit.ListAuditRecords(access_pb2.ListAuditRecordsRequest())).SerializeToString(),
        (await rig.replicas.ListReplicas(replica_pb2.ListReplicasRequest(parent="apps/hello"))).SerializeToString(),
        done.SerializeToString(),
    ]
    await rig.stop()
    try:
        files = [path.read_bytes() for path in rig.settings.data_dir.rglob("*") if path.is_file()]
    finally:
        await rig.start()
    for content in (*said, *files):
        assert CANARY not in content
