"""One thread owns the ledger's connection; everybody else awaits it."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from qonduit_service_kit.logs import get_logger

from qonduit_qpu_broker.ledger.schema import connect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")
_log = get_logger("ledger")
_RETRY_S = 1.0


class LedgerUnavailableError(Exception):
    """The disk does not take or give what the ledger needs, most often because it is full; nothing was changed."""


class LedgerThread:
    """Runs functions on the ledger, each in one transaction that is on disk when it returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._connection: sqlite3.Connection | None = None

    async def start(self) -> None:
        """Open the ledger; ValueError if it is of a newer release."""
        self._connection = await asyncio.get_running_loop().run_in_executor(self._executor, connect, self._path)

    async def stop(self) -> None:
        """Close the ledger; safe to call twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._executor, connection.close)
        self._executor.shutdown(wait=False)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what `work` returns, once its transaction is committed; what it raises rolls back.

        Raises:
            LedgerUnavailableError: The disk refused; a retry helps once it does not.
        """
        if self._connection is None:
            raise RuntimeError("the ledger is not open")
        call = functools.partial(_in_transaction, self._connection, work)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    async def insist(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do the same however long the disk refuses: what was paid for is never dropped."""
        while True:
            try:
                return await self.run(work)
            except LedgerUnavailableError as error:
                _log.warning("waiting for the ledger", reason=str(error))
                await asyncio.sleep(_RETRY_S)


def _in_transaction(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    try:
        connection.execute("BEGIN IMMEDIATE")
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException as error:
        # A commit that failed leaves its transaction open, unless SQLite has rolled it back by itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if isinstance(error, sqlite3.OperationalError):
            raise LedgerUnavailableError(f"The ledger can't be written or read: {error}.") from error
        raise
    return result
