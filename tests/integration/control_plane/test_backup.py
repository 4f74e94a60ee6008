"""Backups: made while it runs, restored into an empty directory while hosts go on; what is wrong is refused."""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control_plane import backup
from control_plane.settings import ServerSettings
from fleet.errors import LocciError
from locci.v1 import app_pb2, node_pb2, release_pb2, secret_pb2, secret_pb2_grpc
from tests.integration.control_plane.rig import Rig, manifest, running

PASSPHRASE = b"correct horse battery"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path) as rig:
        await rig.region("eu")
        yield rig


async def test_hosts_go_on_while_the_control_plane_is_lost_and_restored(rig: Rig, tmp_path: Path) -> None:
    host = await rig.host("eu-1", "eu")
    secrets = secret_pb2_grpc.SecretServiceStub(rig.channel)
    await secrets.CreateSecret(secret_pb2.CreateSecretRequest(secret_id="db", value=b"canary-1"))
    wanted = manifest()
    wanted.secrets.add(secret="db")
    first = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=wanted))
    assert (await rig.finished(first.rollout.name)).state == release_pb2.ROLLOUT_STATE_SUCCEEDED
    file = tmp_path / "one.backup"
    made = backup.create(rig.settings, file, PASSPHRASE, time.time())
    assert made.objects["apps"] == 1
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"canary" not in file.read_bytes()
    with pytest.raises(LocciError, match="is there already"):
        backup.create(rig.settings, file, PASSPHRASE, time.time())

    # The host sees newer revisions and sessions than the backup knows of.
    await host.disconnect()
    host.connect()
    await rig.region("us")
    await rig.condition("eu-1", node_pb2.NODE_CONDITION_READY)
    started, running_before = list(host.started), dict(host.running)
    revision, ca = rig.plane.state.revision, rig.plane.authority.ca_pem
    await rig.stop()
    with pytest.raises(LocciError, match="is not empty"):
        backup.restore(file, rig.settings, PASSPHRASE)
    shutil.rmtree(rig.settings.data_dir)
    backup.restore(file, rig.settings, PASSPHRASE)
    await rig.start()
    assert rig.plane.authority.ca_pem == ca
    assert rig.plane.state.revision > revision
    await rig.condition("eu-1", node_pb2.NODE_CONDITION_READY)
    assert host.started == started
    assert dict(host.running) == running_before
    assert host.resources["secrets/db/1"].secret.value == b"canary-1"
    second = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest()))
    assert (await rig.finished(second.rollout.name)).state == release_pb2.ROLLOUT_STATE_SUCCEEDED
    assert host.link.snapshot.revision > revision


async def test_what_does_not_open(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "one.backup"
    backup.create(rig.settings, file, PASSPHRASE, 1.0)
    whole = file.read_bytes()
    assert backup.verify(file, PASSPHRASE).created_at == 1.0
    with pytest.raises(LocciError, match="the passphrase is wrong"):
        backup.verify(file, b"another passphrase")
    for number, changed in enumerate(
        (whole[:-1], whole[:200], whole + b"x", whole[:300] + b"x" + whole[301:], whole.replace(b"1.0", b"2.0", 1))
    ):
        bad = tmp_path / f"bad{number}"
        bad.write_bytes(changed)
        with pytest.raises(LocciError, match="it does not open"):
            backup.restore(bad, ServerSettings(data_dir=tmp_path / "nowhere"), PASSPHRASE)
        assert not (tmp_path / "nowhere").exists()
    (tmp_path / "text").write_text("hello")
    for path, why in ((tmp_path / "text", "this is no backup"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(LocciError, match=why):
            backup.verify(path, PASSPHRASE)
    with pytest.raises(LocciError, match="holds no control plane"):
        backup.create(ServerSettings(data_dir=tmp_path / "empty"), tmp_path / "x", PASSPHRASE, 1.0)
    (tmp_path / "short").write_text("short\n")
    with pytest.raises(LocciError, match="needs 8 characters"):
        backup.read_passphrase(tmp_path / "short")
