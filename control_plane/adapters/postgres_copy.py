"""A PostgreSQL store as a SQLite file, and back: for backups, and for moving a fleet from one to the other."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool, StaticPool

from control_plane.adapters import schema
from control_plane.adapters.postgres_store import engine_url, shown_url
from control_plane.adapters.sql_store import telling
from fleet.errors import failed_precondition

_TABLES = (schema.objects, schema.events, schema.subjects, schema.meta)
_ADVICE = "look whether PostgreSQL runs there and lets this user in"


async def exported(url: str) -> bytes:
    """A SQLite database of everything but the lease, at one moment. Raises UNAVAILABLE."""
    copy = sa.create_engine("sqlite://", poolclass=StaticPool)
    engine = create_async_engine(engine_url(url), poolclass=NullPool, isolation_level="REPEATABLE READ")
    with telling(f"{shown_url(url)} cannot be read", _ADVICE):
        async with engine.connect() as source:
            with copy.begin() as target:
                schema.migrate(target, "the copy")
                target.execute(schema.meta.delete())
                for table in _TABLES:
                    rows = [dict(row) for row in (await source.execute(sa.select(table))).mappings()]
                    if rows:
                        target.execute(table.insert(), rows)
    await engine.dispose()
    with copy.connect() as connection:
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        return raw.serialize()


async def imported(url: str, content: bytes, before_commit: Callable[[], None]) -> None:
    """Fills an empty PostgreSQL database with what `exported` made, all of it or nothing.

    Raises FAILED_PRECONDITION (NOT_EMPTY), and what `before_commit` raises; then nothing is changed.
    """
    copy = sqlite3.connect(":memory:")
    copy.deserialize(content)
    copy.row_factory = sqlite3.Row
    engine = create_async_engine(engine_url(url), poolclass=NullPool)
    try:
        with telling(f"{shown_url(url)} cannot be written", _ADVICE):
            async with engine.begin() as target:
                await target.run_sync(schema.migrate, shown_url(url))
                if await target.scalar(sa.select(sa.func.count()).select_from(schema.objects)):
                    message = f"{shown_url(url)} is not empty: a backup is only restored into an empty database"
                    raise failed_precondition("NOT_EMPTY", message)
                await target.execute(schema.meta.delete().where(schema.meta.c.key != "schema"))
                for table in _TABLES:
                    columns = ", ".join(column.name for column in table.columns)
                    rows = [dict(row) for row in copy.execute(f"SELECT {columns} FROM {table.name}")]  # noqa: S608
                    # The schema is this program's, whatever that of the backup was.
                    rows = [row for row in rows if row.get("key") != "schema"]
                    if rows:
                        await target.execute(table.insert(), rows)
                before_commit()
    finally:
        copy.close()
        await engine.dispose()
