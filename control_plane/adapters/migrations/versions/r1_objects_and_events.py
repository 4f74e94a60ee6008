"""Objects, events and their subjects, counters: the schema of version 0.1.0."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None


def upgrade() -> None:
    """Makes the tables of an empty database."""
    op.create_table(
        "objects",
        sa.Column("kind", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(512), primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("type", sa.String(64), nullable=False, index=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "event_subjects",
        sa.Column("subject", sa.String(512), primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False, index=True),
    )
    meta = op.create_table(
        "meta",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    counters = {"schema": 1, "revision": 0, "sequence": 0}
    op.bulk_insert(meta, [{"key": key, "value": value} for key, value in counters.items()])
