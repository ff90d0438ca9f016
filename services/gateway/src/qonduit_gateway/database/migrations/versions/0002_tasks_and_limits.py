"""Pages of tasks, and limits of users."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table and the columns."""
    op.create_table(
        "task_pages",
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("page", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False, comment="of the page; rises with each time it is told"),
        sa.Column("waiting_count", sa.Integer(), nullable=False),
        sa.Column("queued_count", sa.Integer(), nullable=False),
        sa.Column("running_count", sa.Integer(), nullable=False),
        sa.Column("done_count", sa.Integer(), nullable=False),
        sa.Column("error_count", sa.Integer(), nullable=False),
        sa.Column("out_of_memory_count", sa.Integer(), nullable=False),
        sa.Column("timeout_count", sa.Integer(), nullable=False),
        sa.Column("lost_count", sa.Integer(), nullable=False),
        sa.Column("unschedulable_count", sa.Integer(), nullable=False),
        sa.Column("canceled_count", sa.Integer(), nullable=False),
        sa.Column("packed", sa.LargeBinary(), nullable=False, comment="its tasks, as they came"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name=op.f("fk_task_pages_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "attempt", "page", name=op.f("pk_task_pages")),
    )
    op.add_column(
        "users",
        sa.Column(
            "limit_cpu_millis",
            sa.BigInteger(),
            nullable=True,
            comment="of one job's tasks together; without it the server's",
        ),
    )
    op.add_column("users", sa.Column("limit_mem_bytes", sa.BigInteger(), nullable=True))
    op.add_column("users", sa.Column("limit_gpus", sa.Integer(), nullable=True))


def downgrade() -> None:
    """Drop them."""
    with op.batch_alter_table("users") as users:
        users.drop_column("limit_gpus")
        users.drop_column("limit_mem_bytes")
        users.drop_column("limit_cpu_millis")
    op.drop_table("task_pages")
