"""How many bytes a user's files may have, which of them a job finds; aliases and schemas of functions; deleted jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_INDEXED = (
    ("jobs", "arguments_digest"),
    ("jobs", "result_digest"),
    ("jobs", "ended_at"),
    ("function_versions", "artifact_digest"),
)


def upgrade() -> None:
    """Make the columns and the table."""
    op.add_column(
        "function_versions",
        sa.Column("arguments_schema", sa.Text(), nullable=True, comment="a JSON Schema; without it anything goes"),
    )
    op.create_table(
        "function_aliases",
        sa.Column("function_id", _SERIAL, nullable=False),
        sa.Column(
            "alias", sa.String(64), nullable=False, comment="never 'latest': that is functions.current_version_id"
        ),
        sa.Column("version_id", _SERIAL, nullable=False),
        sa.ForeignKeyConstraint(
            ["function_id"], ["functions.function_id"], name=op.f("fk_function_aliases_function_id")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["function_versions.version_id"], name=op.f("fk_function_aliases_version_id")
        ),
        sa.PrimaryKeyConstraint("function_id", "alias", name=op.f("pk_function_aliases")),
    )
    op.create_index(op.f("ix_function_aliases_version_id"), "function_aliases", ["version_id"])
    op.add_column(
        "jobs",
        sa.Column(
            "deleted_at", sa.Double(), nullable=True, comment="only the row is left, for the bills that refer to it"
        ),
    )
    op.create_table(
        "dropped_blobs",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("dropped_at", sa.Double(), nullable=False, comment="when a job that had it was deleted"),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_dropped_blobs")),
    )
    op.create_index(op.f("ix_dropped_blobs_dropped_at"), "dropped_blobs", ["dropped_at"])
    for table, column in _INDEXED:
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column])
    op.add_column(
        "users",
        sa.Column(
            "limit_file_bytes",
            sa.BigInteger(),
            nullable=True,
            comment="of all files together; 0 for no limit, without it the server's",
        ),
    )
    op.add_column(
        "jobs",
        sa.Column(
            "files", sa.JSON(), nullable=True, comment="names of the files that it finds in /data; without it all"
        ),
    )


def downgrade() -> None:
    """Drop them."""
    # Not by a copy of the table: SQLite lets no table go that others refer to, and needs no copy for this.
    for table, column in _INDEXED:
        op.drop_index(op.f(f"ix_{table}_{column}"), table)
    op.drop_table("dropped_blobs")
    op.execute("ALTER TABLE jobs DROP COLUMN deleted_at")
    op.drop_table("function_aliases")
    op.execute("ALTER TABLE function_versions DROP COLUMN arguments_schema")
    op.execute("ALTER TABLE jobs DROP COLUMN files")
    op.execute("ALTER TABLE users DROP COLUMN limit_file_bytes")
