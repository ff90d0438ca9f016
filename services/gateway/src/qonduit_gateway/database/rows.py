"""What every module of rows needs: an insert that leaves a row alone when its key is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table


def inserted(connection: Connection, table: Table, **values: Any) -> bool:
    """Insert a row unless one with the same key is there; tell whether it was inserted."""
    if connection.dialect.name == "postgresql":
        return connection.execute(postgresql.insert(table).values(**values).on_conflict_do_nothing()).rowcount == 1
    return connection.execute(sqlite.insert(table).values(**values).on_conflict_do_nothing()).rowcount == 1
