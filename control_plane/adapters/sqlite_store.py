"""The store on one SQLite file in WAL mode: one control plane, no other program to run.

`synchronous=FULL`: a release that was acknowledged and a join token that was used up survive a power cut, and a
revision that a node has persisted is never given out twice. Heartbeats never come here, so the cost of an fsync is
paid per change only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from control_plane.adapters.sql_store import SqlStore
from control_plane.ports import Committed, Transaction
from fleet.errors import failed_precondition


class SqliteStore(SqlStore):
    """A `Store` on the SQLite file at `path`, which is made when it is not there."""

    def __init__(self, path: Path, wall: Callable[[], float]):
        super().__init__(str(path), wall, "look at its disk")
        self._path = path
        self._writing = asyncio.Lock()
        self._reading = asyncio.Lock()

    def _connect(self) -> tuple[AsyncEngine, AsyncEngine]:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._path.touch(mode=0o600, exist_ok=True)
        except OSError as error:
            message = f"{self._path} cannot be used as the store: {error.strerror}"
            raise failed_precondition("STORE_UNUSABLE", message) from error
        # One connection each for writing and reading: SQLite has one writer, and readers do not wait for it.
        writer, reader = self._engine(), self._engine()
        # Reads are one statement each and begin nothing: one that is given up leaves nothing open.
        sa.event.listen(writer.sync_engine, "begin", _begin)
        return writer, reader

    def _engine(self) -> AsyncEngine:
        engine = create_async_engine(f"sqlite+aiosqlite:///{self._path}", poolclass=StaticPool)
        sa.event.listen(engine.sync_engine, "connect", _prepare)
        return engine

    async def _guard(self, connection: AsyncConnection) -> None:
        """Nobody else writes: the file is one process's."""

    async def _commit(self, transaction: Transaction) -> Committed:
        async with self._writing:
            return await super()._commit(transaction)

    @contextlib.asynccontextmanager
    async def _read(self) -> AsyncIterator[AsyncConnection]:
        async with self._reading, super()._read() as connection:
            yield connection


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _prepare(connection: Any, _record: Any) -> None:
    # Python's driver begins transactions of its own accord, and none for a change of the schema: we say when.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
