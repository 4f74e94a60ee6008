"""The store on SQL: SQLite in WAL mode by default.

`synchronous=FULL`: a release that was acknowledged and a join token that was used up survive a power cut, and a
revision that a node has persisted is never given out twice. Heartbeats never come here, so the cost of an fsync is
paid per change only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from control_plane.ports import SCHEMA_VERSION, Committed, Delete, EventQuery, Put, StoredObject, Transaction
from fleet.errors import Code, LocciError
from locci.v1 import event_pb2

EVENTS_MAX = 100_000
_PRUNE_EVERY = 1_000

_tables = sa.MetaData()
_objects = sa.Table(
    "objects",
    _tables,
    sa.Column("kind", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(512), primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
_events = sa.Table(
    "events",
    _tables,
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("type", sa.String(64), nullable=False, index=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
_subjects = sa.Table(
    "event_subjects",
    _tables,
    sa.Column("subject", sa.String(512), primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False, index=True),
)
_meta = sa.Table(
    "meta",
    _tables,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)


class SqlStore:
    """A `Store` on the SQLite file at `path`. Times come from `wall`, seconds since 1970."""

    def __init__(self, path: Path, wall: Callable[[], float]):
        self._path = path
        self._wall = wall
        self._writing = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._writer: AsyncEngine | None = None
        self._reader: AsyncEngine | None = None

    async def open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._path.touch(mode=0o600, exist_ok=True)
        except OSError as error:
            raise _unusable(self._path, str(error.strerror)) from error
        self._writer, self._reader = self._engine(), self._engine()
        try:
            async with self._writer.begin() as connection:
                await connection.run_sync(_tables.create_all)
                await self._check_schema(connection)
        except sa.exc.DatabaseError as error:
            await self.close()
            raise _unusable(self._path, str(error.orig)) from error
        except LocciError:
            await self.close()
            raise

    def _engine(self) -> AsyncEngine:
        # One connection each for writing and reading: SQLite has one writer, and readers do not wait for it.
        engine = create_async_engine(f"sqlite+aiosqlite:///{self._path}", poolclass=StaticPool)
        sa.event.listen(engine.sync_engine, "connect", _prepare)
        return engine

    async def _check_schema(self, connection: AsyncConnection) -> None:
        version = await _value(connection, "schema")
        if version == 0:
            await connection.execute(_meta.insert().values(key="schema", value=SCHEMA_VERSION))
            await connection.execute(_meta.insert().values(key="revision", value=0))
            await connection.execute(_meta.insert().values(key="sequence", value=0))
        elif version > SCHEMA_VERSION:
            raise LocciError(
                Code.FAILED_PRECONDITION,
                "SCHEMA_TOO_NEW",
                f"{self._path} has schema {version}; this program knows {SCHEMA_VERSION}: run a newer locci-server",
            )

    async def close(self) -> None:
        for engine in (self._writer, self._reader):
            if engine is not None:
                await engine.dispose()
        self._writer = self._reader = None

    async def revision(self) -> int:
        async with self._reading, self._open(self._reader).connect() as connection:
            return await _value(connection, "revision")

    async def load(self) -> list[StoredObject]:
        async with self._reading, self._open(self._reader).connect() as connection:
            rows = await connection.execute(sa.select(_objects).order_by(_objects.c.kind, _objects.c.name))
            return [StoredObject(row.kind, row.name, row.revision, row.body) for row in rows]

    async def commit(self, transaction: Transaction) -> Committed:
        # Shielded: a caller that goes away leaves no transaction half way.
        return await asyncio.shield(self._commit(transaction))

    async def _commit(self, transaction: Transaction) -> Committed:
        async with self._writing:
            try:
                async with self._open(self._writer).begin() as connection:
                    return await self._write(connection, transaction)
            except sa.exc.OperationalError as error:
                message = f"{self._path} cannot be written: {error.orig}; look at its disk"
                raise LocciError(Code.UNAVAILABLE, "STORE_UNAVAILABLE", message) from error

    async def _write(self, connection: AsyncConnection, transaction: Transaction) -> Committed:
        revision = await _value(connection, "revision")
        if transaction.changes:
            revision += 1
            await connection.execute(_meta.update().where(_meta.c.key == "revision").values(value=revision))
        for change in transaction.changes:
            await _change(connection, change, revision)
        return Committed(revision, await self._record(connection, transaction))

    async def _record(self, connection: AsyncConnection, transaction: Transaction) -> list[event_pb2.Event]:
        recorded: list[event_pb2.Event] = []
        if not transaction.events:
            return recorded
        sequence = await _value(connection, "sequence")
        rows: list[dict[str, object]] = []
        subjects: list[dict[str, object]] = []
        for given in transaction.events:
            sequence += 1
            event = event_pb2.Event()
            event.CopyFrom(given)
            event.name = f"events/{sequence}"
            event.time.FromMicroseconds(int(self._wall() * 1_000_000))
            rows.append({"sequence": sequence, "type": event.type, "body": event.SerializeToString()})
            subjects.extend({"subject": s, "sequence": sequence} for s in dict.fromkeys(event.subjects))
            recorded.append(event)
        await connection.execute(_events.insert(), rows)
        if subjects:
            await connection.execute(_subjects.insert(), subjects)
        await connection.execute(_meta.update().where(_meta.c.key == "sequence").values(value=sequence))
        if sequence // _PRUNE_EVERY != (sequence - len(rows)) // _PRUNE_EVERY:
            for table in (_events, _subjects):
                await connection.execute(table.delete().where(table.c.sequence <= sequence - EVENTS_MAX))
        return recorded

    async def events(self, query: EventQuery) -> list[event_pb2.Event]:
        statement = sa.select(_events.c.body).limit(query.limit)
        order = _events.c.sequence
        statement = statement.order_by(order.asc() if query.ascending else order.desc())
        if query.after:
            statement = statement.where(order > query.after)
        if query.before:
            statement = statement.where(order < query.before)
        if query.type:
            statement = statement.where(_events.c.type == query.type)
        if query.subject:
            statement = statement.join(_subjects, _subjects.c.sequence == order)
            statement = statement.where(_subjects.c.subject == query.subject)
        async with self._reading, self._open(self._reader).connect() as connection:
            rows = await connection.execute(statement)
            return [event_pb2.Event.FromString(row.body) for row in rows]

    def _open(self, engine: AsyncEngine | None) -> AsyncEngine:
        if engine is None:
            raise LocciError(Code.UNAVAILABLE, "STORE_CLOSED", f"{self._path} is closed: the control plane stops")
        return engine


def _prepare(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _unusable(path: Path, why: str) -> LocciError:
    return LocciError(Code.FAILED_PRECONDITION, "STORE_UNUSABLE", f"{path} cannot be used as the store: {why}")


async def _value(connection: AsyncConnection, key: str) -> int:
    return int(await connection.scalar(sa.select(_meta.c.value).where(_meta.c.key == key)) or 0)


async def _change(connection: AsyncConnection, change: Put | Delete, revision: int) -> None:
    key = sa.and_(_objects.c.kind == change.kind, _objects.c.name == change.name)
    current = int(await connection.scalar(sa.select(_objects.c.revision).where(key)) or 0)
    if change.expected is not None and current != change.expected:
        what = "does not exist" if current == 0 else f"is at revision {current}"
        message = f"{change.kind}/{change.name} {what}, not at revision {change.expected}: read it again, then retry"
        raise LocciError(Code.ABORTED, "CONFLICT", message)
    match change:
        case Put() if current:
            await connection.execute(_objects.update().where(key).values(revision=revision, body=change.body))
        case Put():
            row = {"kind": change.kind, "name": change.name, "revision": revision, "body": change.body}
            await connection.execute(_objects.insert().values(row))
        case Delete():
            await connection.execute(_objects.delete().where(key))
