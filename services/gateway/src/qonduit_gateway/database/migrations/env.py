"""Runs migrations on the connection that `migrate` hands over."""

from __future__ import annotations

from alembic import context
from qonduit_gateway.database.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can't change a table in place: alembic copies it.
    render_as_batch=True,
    transaction_per_migration=False,
)
context.run_migrations()
