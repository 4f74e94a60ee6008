"""The store's tables, and how a database of an older version becomes one of this version.

Migrations run forward when a store is opened, all of them in one transaction: a crash leaves the old schema or the new.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from control_plane.ports import SCHEMA_VERSION
from fleet.errors import LocciError, failed_precondition

_FIRST: Final = "1"
"""The revision of the schema that was made before migrations were kept."""
_LOCK: Final = 0x10CC1
"""Key of the lock under which one of several programs that start at once migrates."""

tables = sa.MetaData()
objects = sa.Table(
    "objects",
    tables,
    sa.Column("kind", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(512), primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
events = sa.Table(
    "events",
    tables,
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("type", sa.String(64), nullable=False, index=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
subjects = sa.Table(
    "event_subjects",
    tables,
    sa.Column("subject", sa.String(512), primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False, index=True),
)
meta = sa.Table(
    "meta",
    tables,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)
leases = sa.Table(
    "leases",
    tables,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("holder", sa.String(256), nullable=False),
    sa.Column("endpoints", sa.String(1024), nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("expire_time", sa.DateTime(timezone=True), nullable=False),
)


def migrate(connection: sa.Connection, place: str) -> None:
    """Brings the database to this program's schema. Raises FAILED_PRECONDITION when its schema is newer."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    known = sa.inspect(connection).get_table_names()
    if meta.name in known:
        version = connection.scalar(sa.select(meta.c.value).where(meta.c.key == "schema")) or 0
        if version > SCHEMA_VERSION:
            raise _too_new(place, version)
        if MigrationContext.configure(connection).get_current_revision() is None:
            command.stamp(config, _FIRST)
    command.upgrade(config, "head")


def _too_new(place: str, version: int) -> LocciError:
    message = f"{place} has schema {version}; this program knows {SCHEMA_VERSION}: run a newer locci-server"
    return failed_precondition("SCHEMA_TOO_NEW", message)
