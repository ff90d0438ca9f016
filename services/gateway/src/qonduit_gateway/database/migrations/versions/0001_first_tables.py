"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "dead_letters",
        sa.Column("dead_letter_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False, comment="tells a redelivered one"),
        sa.Column("queue", sa.String(length=255), nullable=False),
        sa.Column("exchange", sa.String(length=255), nullable=False),
        sa.Column("routing_key", sa.String(length=255), nullable=False),
        sa.Column("type_name", sa.String(length=255), nullable=False),
        sa.Column("message_id", sa.String(length=255), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("replayed_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("dead_letter_id", name=op.f("pk_dead_letters")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_dead_letters_fingerprint")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "outbox",
        sa.Column("outbox_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("lane", sa.String(length=16), nullable=False, comment="'bus' or 'log'"),
        sa.Column("message_id", sa.String(length=64), nullable=False),
        sa.Column("exchange", sa.String(length=255), nullable=False),
        sa.Column("routing_key", sa.String(length=255), nullable=False),
        sa.Column("type_name", sa.String(length=255), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("outbox_id", name=op.f("pk_outbox")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_outbox_lane_outbox_id"), "outbox", ["lane", "outbox_id"], unique=False)
    op.create_table(
        "scheduler_terms",
        sa.Column("term", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("scheduler_id", sa.String(length=255), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("term", name=op.f("pk_scheduler_terms")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "users",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("administrator", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_users")),
    )
    op.create_table(
        "functions",
        sa.Column("function_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("title", sa.String(length=255), nullable=False),
        sa.Column("current_version_id", sa.BigInteger(), nullable=True, comment="the version uploaded last"),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["owner"], ["users.name"], name=op.f("fk_functions_owner")),
        sa.PrimaryKeyConstraint("function_id", name=op.f("pk_functions")),
        sa.UniqueConstraint("owner", "title", name=op.f("uq_functions_owner_title")),
    )
    op.create_index(
        op.f("ix_functions_owner_updated_at_function_id"),
        "functions",
        ["owner", "updated_at", "function_id"],
        unique=False,
    )
    op.create_table(
        "idempotency",
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("request_hash", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["owner"], ["users.name"], name=op.f("fk_idempotency_owner")),
        sa.PrimaryKeyConstraint("owner", "key", name=op.f("pk_idempotency")),
    )
    op.create_table(
        "tokens",
        sa.Column(
            "digest", sa.String(length=64), nullable=False, comment="sha256 of the token; the token itself is not kept"
        ),
        sa.Column("user_name", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False, comment="'bootstrap' or 'created'"),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["user_name"], ["users.name"], name=op.f("fk_tokens_user_name")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_tokens")),
    )
    op.create_table(
        "function_versions",
        sa.Column("version_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("function_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("entrypoint", sa.Text(), nullable=False),
        sa.Column("dependencies", sa.JSON(), nullable=False),
        sa.Column("environment", sa.JSON(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("version_label", sa.Text(), nullable=False),
        sa.Column("artifact_digest", sa.String(length=64), nullable=False),
        sa.Column("artifact_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["function_id"], ["functions.function_id"], name=op.f("fk_function_versions_function_id")
        ),
        sa.PrimaryKeyConstraint("version_id", name=op.f("pk_function_versions")),
        sa.UniqueConstraint("function_id", "version", name=op.f("uq_function_versions_function_id_version")),
    )
    op.create_table(
        "jobs",
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("version_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("function_title", sa.String(length=255), nullable=False),
        sa.Column("arguments_digest", sa.String(length=64), nullable=False),
        sa.Column("cpu_millis", sa.BigInteger(), nullable=False),
        sa.Column("mem_bytes", sa.BigInteger(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("time_limit_s", sa.Double(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("stage", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("error_text", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("worker_id", sa.String(length=255), nullable=False),
        sa.Column("queued_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("cancel_requested_at", sa.Double(), nullable=True),
        sa.Column("exit_code", sa.BigInteger(), nullable=True),
        sa.Column("signal", sa.Integer(), nullable=True),
        sa.Column("result_digest", sa.String(length=64), nullable=False),
        sa.Column("result_bytes", sa.BigInteger(), nullable=False),
        sa.Column(
            "tell_again_at",
            sa.Double(),
            nullable=False,
            comment="when scheduler or worker are told again, if still silent",
        ),
        sa.Column(
            "told_count", sa.Integer(), nullable=False, comment="how often they were told since the state changed"
        ),
        sa.ForeignKeyConstraint(["owner"], ["users.name"], name=op.f("fk_jobs_owner")),
        sa.ForeignKeyConstraint(["version_id"], ["function_versions.version_id"], name=op.f("fk_jobs_version_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_jobs")),
    )
    op.create_index(op.f("ix_jobs_owner_created_at_job_id"), "jobs", ["owner", "created_at", "job_id"], unique=False)
    op.create_index(op.f("ix_jobs_state_tell_again_at"), "jobs", ["state", "tell_again_at"], unique=False)
    op.create_table(
        "job_events",
        sa.Column("event_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False, comment="'gateway' or 'worker': who numbered it"),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("after_sequence", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("status", sa.String(length=64), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name=op.f("fk_job_events_job_id")),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_job_events")),
        sa.UniqueConstraint(
            "job_id", "attempt", "source", "sequence", name=op.f("uq_job_events_job_id_attempt_source_sequence")
        ),
    )
    op.create_table(
        "job_usage",
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("stage", sa.String(length=32), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False, comment="of the event that brought these totals"),
        sa.Column("wall_s", sa.Double(), nullable=False),
        sa.Column("cpu_s", sa.Double(), nullable=False),
        sa.Column("qpu_s", sa.Double(), nullable=False),
        sa.Column("peak_mem_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name=op.f("fk_job_usage_job_id")),
        sa.PrimaryKeyConstraint("job_id", "attempt", "stage", name=op.f("pk_job_usage")),
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("job_usage")
    op.drop_table("job_events")
    op.drop_index(op.f("ix_jobs_state_tell_again_at"), table_name="jobs")
    op.drop_index(op.f("ix_jobs_owner_created_at_job_id"), table_name="jobs")
    op.drop_table("jobs")
    op.drop_table("function_versions")
    op.drop_table("tokens")
    op.drop_table("idempotency")
    op.drop_index(op.f("ix_functions_owner_updated_at_function_id"), table_name="functions")
    op.drop_table("functions")
    op.drop_table("users")
    op.drop_table("scheduler_terms")
    op.drop_index(op.f("ix_outbox_lane_outbox_id"), table_name="outbox")
    op.drop_table("outbox")
    op.drop_table("dead_letters")
