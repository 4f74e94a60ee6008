"""Backups over the API: for administrators, for whoever opens one has everything."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from typing import Final

from google.protobuf import empty_pb2

from control_plane.services import listing
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from fleet.errors import invalid
from fleet.ids import check_id, parse
from fleet.sealed_backup import PASSPHRASE_BYTES_MIN
from locci.v1 import backup_pb2

ID_LENGTH_MAX: Final = 40


class BackupService:
    """Implements `locci.v1.BackupService`."""

    def __init__(self, context: Context):
        self._context = context
        self._state = context.state

    async def list_backups(
        self, request: backup_pb2.ListBackupsRequest, caller: Caller
    ) -> backup_pb2.ListBackupsResponse:
        rows, token = listing.page(request, self._state.backups.items())
        return backup_pb2.ListBackupsResponse(backups=rows, next_page_token=token)

    async def get_backup(self, request: backup_pb2.GetBackupRequest, caller: Caller) -> backup_pb2.Backup:
        parse(request.name, "backups/*")
        return self._state.backups.need(request.name)

    async def create_backup(self, request: backup_pb2.CreateBackupRequest, caller: Caller) -> backup_pb2.Backup:
        passphrase = request.passphrase.encode()
        if len(passphrase) < PASSPHRASE_BYTES_MIN:
            raise invalid("passphrase", f"passphrase: at least {PASSPHRASE_BYTES_MIN} bytes are needed")
        now = datetime.datetime.fromtimestamp(self._context.clock.wall(), datetime.UTC)
        given = (
            check_id(request.backup_id, "backup_id", ID_LENGTH_MAX) if request.backup_id else f"at-{now:%Y%m%d-%H%M%S}"
        )
        name = f"backups/{given}"
        if request.validate_only:
            self._context.backups.check(name)
            return backup_pb2.Backup(name=name, creator=caller.principal)
        # Not even a hash of the passphrase is to be remembered.
        remembered = backup_pb2.CreateBackupRequest(backup_id=request.backup_id, request_id=request.request_id)
        return await self._context.idempotency.once(  # type: ignore[no-any-return]
            caller.principal, remembered, lambda: self._context.backups.begin(name, passphrase, caller.principal)
        )

    async def download_backup(
        self, request: backup_pb2.DownloadBackupRequest, caller: Caller
    ) -> AsyncIterator[backup_pb2.BackupPiece]:
        parse(request.name, "backups/*")
        async for piece in self._context.backups.pieces(request.name):
            yield backup_pb2.BackupPiece(data=piece)

    async def delete_backup(self, request: backup_pb2.DeleteBackupRequest, caller: Caller) -> empty_pb2.Empty:
        parse(request.name, "backups/*")
        await self._context.backups.delete(request.name, caller.principal)
        return empty_pb2.Empty()
