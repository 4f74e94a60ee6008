"""Backups: made while it runs, restored into an empty directory while hosts go on; what is wrong is refused."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from control_plane import backup
from control_plane.settings import ServerSettings
from fleet.errors import LocciError
from fleet.sealed_backup import read_passphrase, verify
from locci.v1 import (
    app_pb2,
    backup_pb2,
    backup_pb2_grpc,
    node_pb2,
    operation_pb2,
    operation_pb2_grpc,
    release_pb2,
    secret_pb2,
    secret_pb2_grpc,
)
from tests.integration.control_plane.rig import Rig, error_of, manifest, running, until

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
    assert verify(file, PASSPHRASE).created_at == 1.0
    with pytest.raises(LocciError, match="the passphrase is wrong"):
        verify(file, b"another passphrase")
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
            verify(path, PASSPHRASE)
    with pytest.raises(LocciError, match="holds no control plane"):
        backup.create(ServerSettings(data_dir=tmp_path / "empty"), tmp_path / "x", PASSPHRASE, 1.0)
    (tmp_path / "short").write_text("short\n")
    with pytest.raises(LocciError, match="needs 8 characters"):
        read_passphrase(tmp_path / "short")


def service(rig: Rig) -> backup_pb2_grpc.BackupServiceStub:
    return backup_pb2_grpc.BackupServiceStub(rig.channel)


def asked(name: str = "", passphrase: bytes = PASSPHRASE, **fields: Any) -> backup_pb2.CreateBackupRequest:
    return backup_pb2.CreateBackupRequest(backup_id=name, passphrase=passphrase.decode(), **fields)


async def ended(rig: Rig, name: str) -> backup_pb2.Backup:
    async def done() -> backup_pb2.Backup | None:
        row = await service(rig).GetBackup(backup_pb2.GetBackupRequest(name=name))
        return row if row.state != backup_pb2.Backup.STATE_RUNNING else None

    return await until(done, f"{name} has ended")  # type: ignore[no-any-return]


async def test_over_the_api(rig: Rig, tmp_path: Path) -> None:
    dry = await service(rig).CreateBackup(asked("one", validate_only=True))
    assert (dry.name, len(rig.plane.state.backups)) == ("backups/one", 0)
    first = await service(rig).CreateBackup(asked("one", request_id="6f2a8f6e-5b1c-4a3e-9d0a-0f3f4a5b6c7d"))
    again = await service(rig).CreateBackup(asked("one", request_id="6f2a8f6e-5b1c-4a3e-9d0a-0f3f4a5b6c7d"))
    assert first.name == again.name == "backups/one"
    made = await ended(rig, first.name)
    assert (made.state, made.creator) == (
        backup_pb2.Backup.STATE_READY,
        rig.plane.state.backups.need(made.name).creator,
    )
    operations = operation_pb2_grpc.OperationServiceStub(rig.channel)
    operation = await operations.GetOperation(operation_pb2.GetOperationRequest(name="operations/backups.one"))
    assert (operation.kind, operation.done) == ("backup", True)
    assert operation.state == operation_pb2.LongRunningOperation.STATE_SUCCEEDED
    request = backup_pb2.DownloadBackupRequest(name=made.name)
    content = b"".join([piece.data async for piece in service(rig).DownloadBackup(request)])
    assert (len(content), hashlib.sha256(content).hexdigest()) == (made.size_bytes, made.sha256)
    file = tmp_path / "fetched"
    file.write_bytes(content)
    assert verify(file, PASSPHRASE).revision == made.backed_up_revision
    # Whoever fetches one has everything: that is recorded, and the passphrase is not.
    records = [row.method for row in rig.plane.state.audit_records.values()]
    assert records.count("BackupService.DownloadBackup") == 1
    kept = (rig.settings.data_dir / "locci.db").read_bytes() + (rig.settings.data_dir / "locci.db-wal").read_bytes()
    assert PASSPHRASE not in kept
    await service(rig).DeleteBackup(backup_pb2.DeleteBackupRequest(name=made.name))
    assert not list((rig.settings.data_dir / "backups").iterdir())


async def test_what_is_refused_and_what_fails(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    for request, why in (
        (asked("one", b"short"), "at least 8 bytes"),
        (asked("One"), "is not an id"),
    ):
        assert why in ((await error_of(service(rig).CreateBackup(request))).details() or "")
    # The folder is a file: nothing can be written there, as on a disk that is full.
    folder = rig.settings.data_dir / "backups"
    folder.write_text("")
    failed = await ended(rig, (await service(rig).CreateBackup(asked("one"))).name)
    assert failed.state == backup_pb2.Backup.STATE_FAILED
    refused = service(rig).DownloadBackup(backup_pb2.DownloadBackupRequest(name=failed.name))
    assert "is not there" in ((await error_of(refused.read())).details() or "")
    folder.unlink()
    for number in range(9):
        await ended(rig, (await service(rig).CreateBackup(asked(f"n{number}"))).name)
    listed = await service(rig).ListBackups(backup_pb2.ListBackupsRequest())
    assert [row.name for row in listed.backups] == [f"backups/n{number}" for number in range(2, 9)]
    assert len(list(folder.iterdir())) == 7


async def test_a_control_plane_that_ends_in_the_middle(rig: Rig) -> None:
    row = backup_pb2.Backup(name="backups/half", state=backup_pb2.Backup.STATE_RUNNING)
    await rig.plane.state.transact(lambda batch: batch.put(rig.plane.state.backups, row.name, row))
    refused = await error_of(service(rig).CreateBackup(asked("other")))
    assert "backups/half is being made" in (refused.details() or "")
    await rig.stop()
    await rig.start()
    found = await ended(rig, "backups/half")
    assert found.state == backup_pb2.Backup.STATE_FAILED
    assert "the control plane ended" in found.reason
