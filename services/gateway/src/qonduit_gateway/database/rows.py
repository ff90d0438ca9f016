"""What modules of rows need: inserts that leave a row alone when its key is there, or replace it if it is older.

Statements on the path of every job are built once, with parameters: building one costs more than running it.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection, Executable, Table


def inserted(connection: Connection, table: Table, **values: Any) -> bool:
    """Insert a row unless one with the same key is there; tell whether it was inserted."""
    return connection.execute(_insert(table, connection.dialect.name), values).first() is not None


@cache
def _insert(table: Table, dialect: str) -> Executable:
    return _dialects_insert(table, dialect).on_conflict_do_nothing().returning(*table.primary_key.columns)


def keep_newest(connection: Connection, table: Table, rows: Iterable[dict[str, Any]], *, by: str) -> None:
    """Keep rows, each unless one with the same key is there whose number `by` is as high."""
    if values := list(rows):
        connection.execute(_insert_newer(table, by, connection.dialect.name), values)


@cache
def _insert_newer(table: Table, by: str, dialect: str) -> Executable:
    insert = _dialects_insert(table, dialect)
    return insert.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={column.name: insert.excluded[column.name] for column in table.columns if not column.primary_key},
        where=table.c[by] < insert.excluded[by],
    )


def _dialects_insert(table: Table, dialect: str) -> postgresql.Insert | sqlite.Insert:
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
