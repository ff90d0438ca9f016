"""Users who are shut out, and several tokens of one user."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_COMMENTS = (
    ("tokens", "label", "'bootstrap' or 'created'", "'bootstrap', 'created', or its maker's words"),
    ("audit_entries", "provider", "'' for what was done to a group", "'' for what was done to a group or a user"),
)


def upgrade() -> None:
    """Make the column, and the index by which a user's tokens are found."""
    op.add_column(
        "users",
        sa.Column("disabled_text", sa.Text(), nullable=True, comment="why they are shut out; without it, they are not"),
    )
    op.create_index(op.f("ix_tokens_user_name"), "tokens", ["user_name"])
    for table, column, before, after in _COMMENTS:
        _say(table, column, before, after)


def downgrade() -> None:
    """Drop them."""
    for table, column, before, after in _COMMENTS:
        _say(table, column, after, before)
    op.drop_index(op.f("ix_tokens_user_name"), "tokens")
    op.execute("ALTER TABLE users DROP COLUMN disabled_text")


def _say(table: str, column: str, before: str, after: str) -> None:
    """Change the comment of a column of 64 characters; SQLite keeps none."""
    if op.get_bind().dialect.supports_comments:
        kind = sa.String(64)
        op.alter_column(
            table, column, existing_type=kind, existing_nullable=False, existing_comment=before, comment=after
        )
