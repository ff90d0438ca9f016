"""What programs tell their users of errors."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the column."""
    op.add_column("job_events", sa.Column("error", sa.JSON(), comment="what the program told its users"))


def downgrade() -> None:
    """Drop it."""
    op.execute("ALTER TABLE job_events DROP COLUMN error")
