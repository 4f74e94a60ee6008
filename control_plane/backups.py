"""Backups that operators ask for: made beside everything else, kept as files of this control plane."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from control_plane import backup, decode
from control_plane.settings import ServerSettings
from control_plane.state import Batch, State
from fleet.clock import Clock
from fleet.errors import LocciError, already_exists, failed_precondition
from fleet.ids import last_part
from fleet.sealed_backup import Contents
from locci.v1 import backup_pb2, event_pb2

log = structlog.get_logger()

PIECE_BYTES: Final = 256 * 1024
AGAIN_S: Final = 1.0
"""Time between tries to note how a backup ended, while the store cannot be written."""
_FOLDER: Final = "backups"
_RUNNING: Final = backup_pb2.Backup.STATE_RUNNING


@dataclass(frozen=True, slots=True)
class _Made:
    """A file that is there."""

    contents: Contents
    size_bytes: int
    sha256: str


def _create(settings: ServerSettings, file: Path, passphrase: bytes, now: float) -> _Made:
    contents = backup.create(settings, file, passphrase, now)
    data = file.read_bytes()
    return _Made(contents, len(data), hashlib.sha256(data).hexdigest())


class Backups:
    """Makes one backup at a time and keeps the last few."""

    def __init__(self, state: State, settings: ServerSettings, clock: Clock):
        self._state = state
        self._settings = settings
        self._clock = clock
        self._folder = settings.data_dir / _FOLDER
        self._making: asyncio.Task[None] | None = None

    async def clear_up(self) -> None:
        """Called once at the start: what was being made when the control plane ended has failed."""
        left = [row for row in self._state.backups.values() if row.state == _RUNNING]
        if not left:
            return

        def build(batch: Batch) -> None:
            for row in left:
                self._file(row.name).unlink(missing_ok=True)
                self._end(batch, row.name, "the control plane ended while it was being made", None)

        await self._state.transact(build)

    async def stop(self) -> None:
        """Gives the backup up that is being made; the next start finds that it has failed."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.gather(self._making, return_exceptions=True)

    def check(self, name: str) -> None:
        """Raises when a backup of this name cannot be begun now."""
        if name in self._state.backups:
            raise already_exists(name)
        running = next((row.name for row in self._state.backups.values() if row.state == _RUNNING), "")
        if running:
            message = f"{running} is being made: wait for operations/{running.replace('/', '.')}"
            raise failed_precondition("BACKUP_RUNNING", message)

    async def begin(self, name: str, passphrase: bytes, creator: str) -> backup_pb2.Backup:
        """Begins to make a backup; the row says when it is there."""
        row = backup_pb2.Backup(name=name, state=_RUNNING, creator=creator, reason="it is being made")
        row.create_time.CopyFrom(decode.timestamp(self._clock.wall()))

        def build(batch: Batch) -> None:
            self.check(name)
            batch.put(self._state.backups, name, row, 0)

        await self._state.transact(build)
        self._making = asyncio.create_task(self._make(name, passphrase))
        return self._state.backups.need(name)

    async def _make(self, name: str, passphrase: bytes) -> None:
        made: _Made | None = None
        reason = "it was opened and checked"
        file = self._file(name)
        try:
            file.parent.mkdir(mode=0o700, exist_ok=True)
            # What a deleted database row has left behind is nobody's.
            file.unlink(missing_ok=True)
            made = await asyncio.to_thread(_create, self._settings, file, passphrase, self._clock.wall())
        except LocciError as error:
            reason = error.message
        except Exception as error:
            log.exception("backup_failed", name=name)
            reason = f"a fault of the control plane, its log says more: {error}"
        forgotten: list[str] = []
        while True:
            try:
                forgotten = await self._state.transact(lambda batch: self._end(batch, name, reason, made))
                break
            except LocciError as error:
                log.error("backup_not_noted", name=name, reason=error.message)
                await self._clock.sleep(AGAIN_S)
        for old in forgotten:
            self._file(old).unlink(missing_ok=True)

    def _end(self, batch: Batch, name: str, reason: str, made: _Made | None) -> list[str]:
        """Notes how it ended; the names of those that go for it, whose files are to be removed afterwards."""
        forgotten: list[str] = []
        row = self._state.backups.copy(name)
        row.end_time.CopyFrom(decode.timestamp(self._clock.wall()))
        row.reason = reason
        if made is None:
            row.state = backup_pb2.Backup.STATE_FAILED
            message = f"{name} could not be made: {reason}"
            batch.event("BackupFailed", message, name, severity=event_pb2.SEVERITY_ERROR)
        else:
            row.state = backup_pb2.Backup.STATE_READY
            row.backed_up_revision = made.contents.revision
            row.objects.update(made.contents.objects)
            row.size_bytes, row.sha256 = made.size_bytes, made.sha256
            batch.event("BackupMade", f"{name} holds revision {row.backed_up_revision}, {made.size_bytes} bytes", name)
            forgotten = self._forget(batch)
        batch.put(self._state.backups, name, row)
        return forgotten

    def _forget(self, batch: Batch) -> list[str]:
        """The oldest go when there are too many; the one that was just made is not counted yet."""
        rows = [row for row in self._state.backups.values() if row.state != _RUNNING]
        rows.sort(key=lambda row: (row.create_time.ToNanoseconds(), row.name))
        names = [row.name for row in rows[: max(0, len(rows) + 1 - self._settings.backups_kept)]]
        for name in names:
            batch.delete(self._state.backups, name)
        return names

    async def delete(self, name: str, principal: str) -> None:
        """Deletes a backup with its file. Raises while it is being made."""

        def build(batch: Batch) -> None:
            if self._state.backups.need(name).state == _RUNNING:
                raise failed_precondition("BACKUP_RUNNING", f"{name} is being made: delete it afterwards")
            batch.delete(self._state.backups, name)
            batch.event("BackupDeleted", f"{principal} deleted {name}", name)

        await self._state.transact(build)
        self._file(name).unlink(missing_ok=True)

    async def pieces(self, name: str) -> AsyncIterator[bytes]:
        """The file, a piece at a time. Raises when there is none."""
        row = self._state.backups.need(name)
        if row.state != backup_pb2.Backup.STATE_READY:
            raise failed_precondition("BACKUP_NOT_READY", f"{name} is not there: {row.reason}")
        try:
            opened = self._file(name).open("rb")
        except OSError as error:
            message = f"the file of {name} is not with this control plane ({error.strerror}): make another backup"
            raise failed_precondition("BACKUP_GONE", message) from error
        with contextlib.closing(opened) as file:
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                yield piece

    def _file(self, name: str) -> Path:
        return self._folder / f"{last_part(name)}.backup"
