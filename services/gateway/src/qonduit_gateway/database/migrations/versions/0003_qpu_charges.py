"""QPU seconds as the QPU broker charges them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_KEEP = """
INSERT INTO qpu_charges (charge_id, job_id, user_name, backend, mode, qpu_s, at)
SELECT 'reported-' || jobs.job_id, jobs.job_id, MAX(jobs.owner), '', 'job', SUM(job_usage.qpu_s),
    MAX(COALESCE(jobs.ended_at, jobs.created_at))
FROM job_usage JOIN jobs ON jobs.job_id = job_usage.job_id
GROUP BY jobs.job_id
HAVING SUM(job_usage.qpu_s) > 0
"""
"""What workers reported until now stays on the bills: of that, the broker tells nothing again."""


def upgrade() -> None:
    """Make the table, with one charge for each job that used a QPU before."""
    op.create_table(
        "qpu_charges",
        sa.Column(
            "charge_id",
            sa.String(length=64),
            nullable=False,
            comment="of a QPU job, or of a session charged by the clock",
        ),
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("user_name", sa.String(length=64), nullable=False),
        sa.Column("backend", sa.String(length=255), nullable=False),
        sa.Column("mode", sa.String(length=16), nullable=False, comment="'job', 'batch' or 'dedicated'"),
        sa.Column("qpu_s", sa.Double(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False, comment="when the QPU broker knew it"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name=op.f("fk_qpu_charges_job_id")),
        sa.PrimaryKeyConstraint("charge_id", name=op.f("pk_qpu_charges")),
    )
    op.create_index(op.f("ix_qpu_charges_job_id"), "qpu_charges", ["job_id"])
    op.execute(_KEEP)


def downgrade() -> None:
    """Drop it."""
    op.drop_table("qpu_charges")
