"""What every module of rows needs: an insert that leaves a row alone when its key is there.

Statements on the path of every job are built once, with parameters: building one costs more than running it.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from sqlalchemy import Connection, Executable, Table


def inserted(connection: Connection, table: Table, **values: Any) -> bool:
    """Insert a row unless one with the same key is there; tell whether it was inserted."""
    return connection.execute(_insert(table, connection.dialect.name), values).first() is not None


@cache
def _insert(table: Table, dialect: str) -> Executable:
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return insert(table).on_conflict_do_nothing().returning(*table.primary_key.columns)
