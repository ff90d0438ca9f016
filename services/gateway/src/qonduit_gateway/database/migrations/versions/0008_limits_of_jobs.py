"""How many jobs a user may have, and run, and for how long."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_COLUMNS: tuple[tuple[str, sa.types.TypeEngine[Any], str], ...] = (
    ("limit_active_jobs", sa.Integer(), "not over at a time; 0 for no limit, without it the server's"),
    ("limit_running_jobs", sa.Integer(), "placed at a time; 0 for no limit, without it the server's"),
    ("limit_time_limit_seconds", sa.Double(), "longest of a job; without it the server's"),
)


def upgrade() -> None:
    """Make the columns, and the index by which a user's jobs are counted that are not over."""
    for name, kind, comment in _COLUMNS:
        op.add_column("users", sa.Column(name, kind, nullable=True, comment=comment))
    op.create_index(op.f("ix_jobs_owner_ended_at"), "jobs", ["owner", "ended_at"])


def downgrade() -> None:
    """Drop them."""
    op.drop_index(op.f("ix_jobs_owner_ended_at"), "jobs")
    # Not by a copy of the table: SQLite lets no table go that others refer to, and needs no copy for this.
    for name, _, _ in reversed(_COLUMNS):
        op.execute(f"ALTER TABLE users DROP COLUMN {name}")
