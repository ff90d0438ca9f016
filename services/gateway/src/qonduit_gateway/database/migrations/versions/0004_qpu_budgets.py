"""Budgets of QPU seconds, of users and of jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the columns, and the index by which a user's charges are summed."""
    op.add_column(
        "users",
        sa.Column(
            "limit_qpu_seconds",
            sa.Double(),
            nullable=True,
            comment="in any 28 days; 0 for no limit, without it the server's",
        ),
    )
    op.add_column(
        "jobs",
        sa.Column(
            "qpu_budget_s",
            sa.Double(),
            nullable=True,
            comment="most QPU seconds that it may be charged; without it no limit",
        ),
    )
    op.create_index(op.f("ix_qpu_charges_user_name_at"), "qpu_charges", ["user_name", "at"])


def downgrade() -> None:
    """Drop them."""
    op.drop_index(op.f("ix_qpu_charges_user_name_at"), "qpu_charges")
    # Not by a copy of the table: SQLite lets no table go that others refer to, and needs no copy for this.
    op.execute("ALTER TABLE jobs DROP COLUMN qpu_budget_s")
    op.execute("ALTER TABLE users DROP COLUMN limit_qpu_seconds")
