"""Leases of control planes that share a database."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    """Adds the table of leases."""
    op.create_table(
        "leases",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("holder", sa.String(256), nullable=False),
        sa.Column("endpoints", sa.String(1024), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=False),
    )
    op.execute("UPDATE meta SET value = 2 WHERE key = 'schema'")
