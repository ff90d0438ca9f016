"""Where in a trace a job was submitted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the column."""
    op.add_column(
        "jobs",
        sa.Column(
            "traceparent",
            sa.String(64),
            nullable=False,
            server_default="",
            comment="where in a trace it was submitted",
        ),
    )


def downgrade() -> None:
    """Drop it."""
    op.execute("ALTER TABLE jobs DROP COLUMN traceparent")
