"""Providers and what they grant, groups, audit entries; functions of providers, and jobs of these."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_OF_ONE = "(owner IS NULL) <> (provider IS NULL)"


def upgrade() -> None:
    """Make tables and columns."""
    _make_providers()
    _make_grants()
    if op.get_bind().dialect.name == "sqlite":
        _make_functions_anew(of_providers=True)
    else:
        _change_functions()
    op.add_column(
        "functions", sa.Column("disabled_text", sa.Text(), comment="why it accepts no jobs; without it, it does")
    )
    index = ["provider", "updated_at", "function_id"]
    op.create_index(op.f("ix_functions_provider_updated_at_function_id"), "functions", index)
    _change_jobs()


def _make_providers() -> None:
    for name in ("providers", "user_groups"):
        op.create_table(
            name,
            sa.Column("name", sa.String(64), nullable=False),
            sa.Column("created_at", sa.Double(), nullable=False),
            sa.Column("created_by", sa.String(64), nullable=False),
            sa.ForeignKeyConstraint(["created_by"], ["users.name"], name=op.f(f"fk_{name}_created_by")),
            sa.PrimaryKeyConstraint("name", name=op.f(f"pk_{name}")),
        )
    op.create_table(
        "group_members",
        sa.Column("group_name", sa.String(64), nullable=False),
        sa.Column("user_name", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(["group_name"], ["user_groups.name"], name=op.f("fk_group_members_group_name")),
        sa.ForeignKeyConstraint(["user_name"], ["users.name"], name=op.f("fk_group_members_user_name")),
        sa.PrimaryKeyConstraint("group_name", "user_name", name=op.f("pk_group_members")),
    )
    op.create_index(op.f("ix_group_members_user_name"), "group_members", ["user_name"])


def _make_grants() -> None:
    key = ("provider", "function_title", "grantee_kind", "grantee", "role")
    op.create_table(
        "grants",
        sa.Column("provider", sa.String(64), nullable=False),
        sa.Column("function_title", sa.String(255), nullable=False, comment="'' for all of the provider's"),
        sa.Column("grantee_kind", sa.String(16), nullable=False, comment="'user', 'group' or 'everyone'"),
        sa.Column("grantee", sa.String(64), nullable=False, comment="'' for everyone"),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("granted_by", sa.String(64), nullable=False),
        sa.Column("granted_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["provider"], ["providers.name"], name=op.f("fk_grants_provider")),
        sa.PrimaryKeyConstraint(*key, name=op.f("pk_grants")),
    )
    op.create_index(op.f("ix_grants_grantee_kind_grantee"), "grants", ["grantee_kind", "grantee"])
    op.create_table(
        "audit_entries",
        sa.Column("entry_id", _SERIAL, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("provider", sa.String(64), nullable=False, comment="'' for what was done to a group"),
        sa.Column("function_title", sa.String(255), nullable=False, comment="'' for all of the provider's"),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("entry_id", name=op.f("pk_audit_entries")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_audit_entries_provider_entry_id"), "audit_entries", ["provider", "entry_id"])


def _change_functions() -> None:
    op.alter_column("functions", "owner", nullable=True, comment="whose it is, if it is no provider's")
    of_provider = sa.Column("provider", sa.String(64), comment="whose it is, if it is no user's")
    op.add_column("functions", of_provider)
    op.create_foreign_key(op.f("fk_functions_provider"), "functions", "providers", ["provider"], ["name"])
    op.create_unique_constraint(op.f("uq_functions_provider_title"), "functions", ["provider", "title"])
    op.create_check_constraint(op.f("ck_functions_of_one"), "functions", _OF_ONE)


def _make_functions_anew(*, of_providers: bool) -> None:
    """Make the table again under its own name: SQLite can't change a column that must not be empty.

    Versions refer to its rows. Rows that come back under the table's name are those that are referred to, which is
    looked at when all is committed; a copy that is renamed at the end would not do.
    """
    op.execute("PRAGMA defer_foreign_keys = ON")
    op.execute(
        "CREATE TEMPORARY TABLE kept_functions AS "
        "SELECT function_id, owner, title, current_version_id, updated_at FROM functions"
    )
    op.drop_table("functions")
    parts: list[sa.Column[Any] | sa.Constraint] = [
        sa.Column("function_id", _SERIAL, nullable=False),
        sa.Column("owner", sa.String(64), nullable=of_providers),
        sa.Column("title", sa.String(255), nullable=False),
        sa.Column("current_version_id", sa.BigInteger(), nullable=True),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["owner"], ["users.name"], name=op.f("fk_functions_owner")),
        sa.PrimaryKeyConstraint("function_id", name=op.f("pk_functions")),
        sa.UniqueConstraint("owner", "title", name=op.f("uq_functions_owner_title")),
    ]
    if of_providers:
        parts += [
            sa.Column("provider", sa.String(64), nullable=True),
            sa.ForeignKeyConstraint(["provider"], ["providers.name"], name=op.f("fk_functions_provider")),
            sa.UniqueConstraint("provider", "title", name=op.f("uq_functions_provider_title")),
            sa.CheckConstraint(_OF_ONE, name=op.f("ck_functions_of_one")),
        ]
    op.create_table("functions", *parts)
    op.create_index(
        op.f("ix_functions_owner_updated_at_function_id"), "functions", ["owner", "updated_at", "function_id"]
    )
    op.execute(
        "INSERT INTO functions (function_id, owner, title, current_version_id, updated_at) "
        "SELECT function_id, owner, title, current_version_id, updated_at FROM kept_functions"
    )
    op.execute("DROP TABLE kept_functions")


def _change_jobs() -> None:
    op.add_column(
        "jobs",
        sa.Column(
            "provider",
            sa.String(64),
            nullable=False,
            server_default="",
            comment="whose function it runs; '' for its user's",
        ),
    )
    op.add_column(
        "jobs",
        sa.Column(
            "trial",
            sa.Boolean(),
            nullable=False,
            server_default=sa.false(),
            comment="its user may only try the function",
        ),
    )
    index = ["provider", "function_title", "created_at", "job_id"]
    op.create_index(op.f("ix_jobs_provider_function_title_created_at_job_id"), "jobs", index)


def downgrade() -> None:
    """Drop them; it fails while a provider has functions, which have no place in the tables before."""
    op.drop_index(op.f("ix_jobs_provider_function_title_created_at_job_id"), "jobs")
    op.execute("ALTER TABLE jobs DROP COLUMN trial")
    op.execute("ALTER TABLE jobs DROP COLUMN provider")
    if op.get_bind().dialect.name == "sqlite":
        _make_functions_anew(of_providers=False)
    else:
        op.alter_column("functions", "owner", nullable=False)
        op.execute("ALTER TABLE functions DROP COLUMN provider, DROP COLUMN disabled_text")
    for table in ("audit_entries", "grants", "group_members", "user_groups", "providers"):
        op.drop_table(table)
