"""Transactions in groups: all that came while one was running makes the next one, with one begin and one commit.

So the cost of a transaction (a thread woken, a connection taken, a write to the disk waited for) is shared the more,
the more there is to do, and a single call waits for nobody. This is group commit, as in DeWitt et al., "Implementation
techniques for main memory database systems" (1984), with a savepoint around each part, so that one that fails leaves
the others alone.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine

T = TypeVar("T")

_MOST = 50


@dataclass(frozen=True, slots=True, eq=False)
class Asked(Generic[T]):
    """Something to do in a transaction, and who waits for it."""

    work: Callable[[Connection], T]
    loop: asyncio.AbstractEventLoop
    ended: asyncio.Future[T]

    def end(self, result: T, error: BaseException | None) -> None:
        """Tell what came of it; on the event loop."""
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(result)
        else:
            self.ended.set_exception(error)


class Groups:
    """Runs what it is asked for in a few threads, a transaction of an engine for as much of it as waits."""

    def __init__(self, engine: Engine, threads: int, name: str) -> None:
        self._engine = engine
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._share = threads
        self._waiting: deque[Asked[Any]] = deque()
        self._lock = threading.Lock()

    def ask(self, work: Callable[[Connection], T]) -> Asked[T]:
        """Have something done; its `ended` tells the result once the transaction is committed."""
        loop = asyncio.get_running_loop()
        asked = Asked(work, loop, loop.create_future())
        self._waiting.append(asked)
        self._threads.submit(self._next_group)
        return asked

    def drop(self, asked: Asked[Any]) -> bool:
        """Forget what was asked for; False when it has begun already."""
        with self._lock:
            try:
                self._waiting.remove(asked)
            except ValueError:
                return False
        return True

    def close(self) -> None:
        """Wait for all that was asked for."""
        self._threads.shutdown(wait=True)

    def _next_group(self) -> None:
        with self._lock:
            # A thread leaves the others their share, so that what is quick seldom waits for something slow.
            size = min(math.ceil(len(self._waiting) / self._share), _MOST)
            group = [self._waiting.popleft() for _ in range(size)]
        if not group:
            return  # An earlier turn took it along.
        try:
            with self._engine.begin() as connection:
                outcomes = _outcomes(connection, group)
        except BaseException as error:  # noqa: BLE001 - Whatever it is, it is told to those who wait.
            # Not committed, or nobody knows: even a refusal may be due to what another part wrote before it.
            outcomes = [(None, error)] * len(group)
        group[0].loop.call_soon_threadsafe(_tell, group, outcomes)


def _outcomes(connection: Connection, group: list[Asked[Any]]) -> list[tuple[Any, BaseException | None]]:
    if len(group) == 1:
        return [(group[0].work(connection), None)]
    statement = connection.exec_driver_sql  # Through `begin_nested` a savepoint costs as much as a transaction.
    outcomes: list[tuple[Any, BaseException | None]] = []
    for asked in group:
        statement("SAVEPOINT part")
        try:
            outcomes.append((asked.work(connection), None))
        except Exception as error:  # noqa: BLE001 - It is told to the one who asked.
            statement("ROLLBACK TO SAVEPOINT part")
            outcomes.append((None, error))
        statement("RELEASE SAVEPOINT part")
    return outcomes


def _tell(group: list[Asked[Any]], outcomes: list[tuple[Any, BaseException | None]]) -> None:
    for asked, outcome in zip(group, outcomes, strict=True):
        asked.end(*outcome)
