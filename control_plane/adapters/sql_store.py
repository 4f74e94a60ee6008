"""The store on SQL; what differs between databases is in `SqliteStore` and `PostgresStore`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from control_plane.adapters import schema
from control_plane.ports import Committed, Delete, EventQuery, Put, StoredObject, Transaction
from fleet.errors import Code, LocciError, failed_precondition
from locci.v1 import event_pb2

EVENTS_MAX = 100_000
_PRUNE_EVERY = 1_000
_NAMES_MAX: Final = 500
"""So many names in one question."""


class SqlStore(ABC):
    """What every SQL store shares. `place` names the database in errors; times come from `wall`, since 1970."""

    def __init__(self, place: str, wall: Callable[[], float], advice: str):
        """`advice` is what to look at when it cannot be reached."""
        self.place = place
        self._advice = advice
        self._wall = wall
        self._writer: AsyncEngine | None = None
        self._reader: AsyncEngine | None = None
        self._commits: set[asyncio.Task[Committed]] = set()

    @abstractmethod
    def _connect(self) -> tuple[AsyncEngine, AsyncEngine]:
        """Engines for writing and for reading; they may be the same."""

    @abstractmethod
    async def _guard(self, connection: AsyncConnection) -> None:
        """What must hold for a transaction to be committed. Raises when it does not."""

    async def open(self) -> None:
        self._writer, self._reader = self._connect()
        try:
            async with self._writer.begin() as connection:
                await connection.run_sync(schema.migrate, self.place)
        except (OSError, sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            await self.close()
            message = f"{self.place} cannot be used as the store: {_said(error)}; {self._advice}"
            raise failed_precondition("STORE_UNUSABLE", message) from error
        except LocciError:
            await self.close()
            raise

    async def close(self) -> None:
        if self._commits:
            await asyncio.wait(self._commits)
        for engine in {self._writer, self._reader}:
            if engine is not None:
                await engine.dispose()
        self._writer = self._reader = None

    async def revision(self) -> int:
        async with self._read() as connection:
            return await _value(connection, "revision")

    async def load(self) -> list[StoredObject]:
        objects = schema.objects
        async with self._read() as connection:
            rows = await connection.execute(sa.select(objects).order_by(objects.c.kind, objects.c.name))
            return [StoredObject(row.kind, row.name, row.revision, row.body) for row in rows]

    async def commit(self, transaction: Transaction) -> Committed:
        # Shielded: a caller that goes away leaves no transaction half way.
        task = asyncio.create_task(self._commit(transaction))
        self._commits.add(task)
        task.add_done_callback(self._commits.discard)
        return await asyncio.shield(task)

    async def _commit(self, transaction: Transaction) -> Committed:
        with self._telling("written"):
            async with self._open(self._writer).begin() as connection:
                await self._guard(connection)
                return await self._write(connection, transaction)

    @contextlib.asynccontextmanager
    async def _read(self) -> AsyncIterator[AsyncConnection]:
        with self._telling("read"):
            async with self._open(self._reader).connect() as connection:
                yield connection

    def _telling(self, what: str) -> contextlib.AbstractContextManager[None]:
        return telling(f"{self.place} cannot be {what}", self._advice)

    async def _write(self, connection: AsyncConnection, transaction: Transaction) -> Committed:
        if transaction.changes:
            # First of all: whoever else commits waits here for its turn.
            revision = await _add(connection, "revision", 1)
        else:
            revision = await _value(connection, "revision")
        await _check_expected(connection, transaction, revision)
        # The last change of an object counts; one statement each, however many there are.
        last = {(change.kind, change.name): change for change in transaction.changes}
        puts = [
            {"kind": c.kind, "name": c.name, "revision": revision, "body": c.body}
            for c in last.values()
            if isinstance(c, Put)
        ]
        deletes = [{"of_kind": c.kind, "of_name": c.name} for c in last.values() if isinstance(c, Delete)]
        if puts:
            await connection.execute(_upsert(connection.dialect.name), puts)
        if deletes:
            await connection.execute(_DELETE, deletes)
        return Committed(revision, await self._record(connection, transaction))

    async def _record(self, connection: AsyncConnection, transaction: Transaction) -> list[event_pb2.Event]:
        recorded: list[event_pb2.Event] = []
        if not transaction.events:
            return recorded
        sequence = await _add(connection, "sequence", len(transaction.events)) - len(transaction.events)
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
        await connection.execute(schema.events.insert(), rows)
        if subjects:
            await connection.execute(schema.subjects.insert(), subjects)
        if sequence // _PRUNE_EVERY != (sequence - len(rows)) // _PRUNE_EVERY:
            for table in (schema.events, schema.subjects):
                await connection.execute(table.delete().where(table.c.sequence <= sequence - EVENTS_MAX))
        return recorded

    async def events(self, query: EventQuery) -> list[event_pb2.Event]:
        events, subjects = schema.events, schema.subjects
        statement = sa.select(events.c.body).limit(query.limit)
        order = events.c.sequence
        statement = statement.order_by(order.asc() if query.ascending else order.desc())
        if query.after:
            statement = statement.where(order > query.after)
        if query.before:
            statement = statement.where(order < query.before)
        if query.type:
            statement = statement.where(events.c.type == query.type)
        if query.subject:
            statement = statement.join(subjects, subjects.c.sequence == order)
            statement = statement.where(subjects.c.subject == query.subject)
        async with self._read() as connection:
            rows = await connection.execute(statement)
            return [event_pb2.Event.FromString(row.body) for row in rows]

    def _open(self, engine: AsyncEngine | None) -> AsyncEngine:
        if engine is None:
            raise LocciError(Code.UNAVAILABLE, "STORE_CLOSED", f"{self.place} is closed: the control plane stops")
        return engine


@contextlib.contextmanager
def telling(what: str, advice: str) -> Iterator[None]:
    """Says in one way that a database does not answer; a statement that is wrong is a fault of ours."""
    try:
        yield
    except (sa.exc.IntegrityError, sa.exc.ProgrammingError, sa.exc.DataError):
        raise
    except (OSError, TimeoutError, sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
        raise LocciError(Code.UNAVAILABLE, "STORE_UNAVAILABLE", f"{what}: {_said(error)}; {advice}") from error


def _said(error: BaseException) -> str:
    """What a database said, in one line."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) and error.orig is not None else error
    text = str(cause) or type(cause).__name__
    return text.splitlines()[0].partition(">: ")[2] or text.splitlines()[0]


async def _value(connection: AsyncConnection, key: str) -> int:
    return int(await connection.scalar(sa.select(schema.meta.c.value).where(schema.meta.c.key == key)) or 0)


async def _add(connection: AsyncConnection, key: str, number: int) -> int:
    """Raises a counter; what it is then."""
    meta = schema.meta
    change = meta.update().where(meta.c.key == key).values(value=meta.c.value + number).returning(meta.c.value)
    return int(await connection.scalar(change) or 0)


async def _check_expected(connection: AsyncConnection, transaction: Transaction, revision: int) -> None:
    """Raises ABORTED when an object that a change depends on is not as it expects it."""
    objects = schema.objects
    names: dict[str, set[str]] = {}
    for change in transaction.changes:
        if change.expected is not None:
            names.setdefault(change.kind, set()).add(change.name)
    current: dict[tuple[str, str], int] = {}
    for kind, asked in names.items():
        ordered = sorted(asked)
        for start in range(0, len(ordered), _NAMES_MAX):
            # By kind and name: that is the key, and by names alone all there is would be read.
            some = sa.and_(objects.c.kind == kind, objects.c.name.in_(ordered[start : start + _NAMES_MAX]))
            rows = await connection.execute(sa.select(objects.c.name, objects.c.revision).where(some))
            current.update({(kind, row.name): row.revision for row in rows})
    for change in transaction.changes:
        key = (change.kind, change.name)
        if change.expected is not None and current.get(key, 0) != change.expected:
            what = f"is at revision {current[key]}" if current.get(key) else "does not exist"
            message = (
                f"{change.kind}/{change.name} {what}, not at revision {change.expected}: read it again, then retry"
            )
            raise LocciError(Code.ABORTED, "CONFLICT", message)
        current[key] = revision if isinstance(change, Put) else 0


@functools.cache
def _upsert(dialect: str) -> sa.Insert:
    insert = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(schema.objects)
    given = {"revision": insert.excluded.revision, "body": insert.excluded.body}
    return insert.on_conflict_do_update(index_elements=["kind", "name"], set_=given)


_DELETE: Final = schema.objects.delete().where(
    sa.and_(schema.objects.c.kind == sa.bindparam("of_kind"), schema.objects.c.name == sa.bindparam("of_name"))
)
