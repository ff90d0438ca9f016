"""Brings a database to the tables that this version of the service works with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

HEAD = "0010"
"""The newest migration; a test compares it with the scripts."""

_SCRIPTS = Path(__file__).parent / "migrations"
_LOCK = 0x716F6E6475697401


def config() -> Config:
    """Return alembic's configuration, which is all in here."""
    # Alembic and its templates take a third of a second to import, and most starts need no migration.
    from alembic.config import Config  # noqa: PLC0415

    made = Config()
    made.set_main_option("script_location", str(_SCRIPTS))
    return made


def upgrade(connection: Connection) -> bool:
    """Run the migrations that are missing, inside the open transaction; tell whether there were any.

    Raises:
        RuntimeError: The database was made by a newer version of the service.
    """
    if connection.dialect.name == "postgresql":
        # Of several gateways that start at once one migrates, and the others find it done.
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    present = _present(connection)
    if present == HEAD:
        return False
    from alembic import command  # noqa: PLC0415 - see config().
    from alembic.util import CommandError  # noqa: PLC0415

    settings = config()
    settings.attributes["connection"] = connection
    try:
        command.upgrade(settings, "head")
    except CommandError as error:
        raise RuntimeError(
            f"the database is at migration {present!r}, which this version does not know: "
            "start the version that made it, or a newer one"
        ) from error
    return True


def _present(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
