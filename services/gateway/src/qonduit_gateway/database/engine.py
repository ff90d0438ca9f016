"""Runs transactions off the event loop: one thread writes, a few read."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DataError, DBAPIError, OperationalError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from qonduit_gateway.database.groups import Groups

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL

    from qonduit_gateway.database.groups import Asked

T = TypeVar("T")

_READERS = 4
_SLACK_S = 1.0


class DatabaseUnavailableError(Exception):
    """The database did not answer in time, is locked, or is gone. Trying again can help."""


class UnstorableError(Exception):
    """The database can't take a value, such as a text with a NUL in PostgreSQL. Trying again can't help."""


class Database:
    """The database; every call is one transaction, or a part of one that fails or holds by itself.

    What was asked for and not begun is dropped when its caller goes away. What was interrupted when it was
    committed may have happened: callers repeat it, and rows are keyed so that this is harmless.
    """

    def __init__(self, url: str, *, busy_timeout_s: float = 5.0) -> None:
        self._url = parse_url(url)
        self._busy_timeout_s = busy_timeout_s
        self._sqlite = self._url.get_backend_name() == "sqlite"
        if self._sqlite:
            self._writing_engine = _sqlite_engine(self._url, busy_timeout_s, begin="BEGIN IMMEDIATE", pool_size=1)
            self._reading_engine = _sqlite_engine(self._url, busy_timeout_s, begin="BEGIN", pool_size=_READERS)
        else:
            self._writing_engine = self._reading_engine = _postgresql_engine(self._url, busy_timeout_s)
        # One group writes at a time, so that no two of them wait for each other's rows.
        self._writers = Groups(self._writing_engine, 1, "db-write")
        self._readers = Groups(self._reading_engine, _READERS, "db-read")

    @property
    def engine(self) -> Engine:
        """The engine that writes, for migrations."""
        return self._writing_engine

    @property
    def where(self) -> str:
        """The address, without its password."""
        return self._url.render_as_string(hide_password=True)

    async def write(self, work: Callable[[Connection], T], *, timeout_s: float | None = None) -> T:
        """Run `work` in a transaction that may write, and return its result once it is committed.

        It waits `timeout_s` seconds at most; by default a little more than twice the time to wait for a lock.

        Raises:
            DatabaseUnavailableError: Nothing was committed, or it can't be known whether it was.
            UnstorableError: Nothing was committed, as a value was none that the database can take.
        """
        return await self._run(self._writers, work, timeout_s)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction that only reads; errors as for `write`."""
        return await self._run(self._readers, work, None)

    async def close(self) -> None:
        """Wait for what runs and close every connection; safe to call twice."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writers.close()
        self._readers.close()
        self._writing_engine.dispose()
        self._reading_engine.dispose()

    async def _run(self, groups: Groups, work: Callable[[Connection], T], timeout_s: float | None) -> T:
        asked = groups.ask(work)
        try:
            return await self._in_time(groups, asked, timeout_s or 2 * self._busy_timeout_s + _SLACK_S)
        except PendingRollbackError as error:
            # A connection broke within one part of a group; what broke it is what the part was told.
            raise DatabaseUnavailableError(_cause(error.__context__ or error)) from error
        except (OperationalError, PoolTimeoutError) as error:
            raise DatabaseUnavailableError(_cause(error)) from error
        except DataError as error:
            raise UnstorableError(_cause(error)) from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise DatabaseUnavailableError(_cause(error)) from error
            raise

    async def _in_time(self, groups: Groups, asked: Asked[T], timeout_s: float) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(asked.ended)
        except TimeoutError:
            if groups.drop(asked):
                raise DatabaseUnavailableError("it is too busy to answer in time") from None
            # It has begun, and what it waits for has time limits of its own: its end is soon known.
            return await asked.ended
        except asyncio.CancelledError:
            groups.drop(asked)
            raise


def parse_url(url: str) -> URL:
    """Read a database URL; PostgreSQL is always spoken to through psycopg."""
    parsed = make_url(url)
    if parsed.drivername in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
        raise ValueError(f"database_url must begin with sqlite:/// or postgresql://, not {parsed.drivername}://")
    return parsed


def _cause(error: BaseException) -> str:
    origin = getattr(error, "orig", None) or error
    return f"{type(origin).__name__}: {str(origin).strip().splitlines()[0] if str(origin).strip() else ''}"


def _sqlite_engine(url: URL, busy_timeout_s: float, *, begin: str, pool_size: int) -> Engine:
    engine = create_engine(url, pool_size=pool_size, max_overflow=0, pool_timeout=busy_timeout_s)

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: object) -> None:
        # The driver's own implicit BEGIN is deferred, and a deferred transaction that reads and then writes fails
        # with "database is locked" however long the timeout: transactions are begun below, in words.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(busy_timeout_s * 1000)}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _postgresql_engine(url: URL, busy_timeout_s: float) -> Engine:
    milliseconds = int(busy_timeout_s * 1000)
    return create_engine(
        url,
        pool_size=_READERS + 1,
        max_overflow=0,
        pool_timeout=busy_timeout_s,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": max(1, int(busy_timeout_s)),
            "tcp_user_timeout": 2 * milliseconds,
            "options": f"-c lock_timeout={milliseconds} -c statement_timeout={2 * milliseconds}",
        },
    )
