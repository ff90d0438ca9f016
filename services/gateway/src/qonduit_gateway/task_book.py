"""The book of tasks: pages as the drivers' agents tell them, many in one transaction."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qonduit_gateway.database import task_rows
from qonduit_gateway.jobs.tasks import TaskTally

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qonduit_service_kit.messages import PackedTasksPage
    from sqlalchemy import Connection

    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.watchers import Watchers


@dataclass(slots=True)
class _Batch:
    """What is committed together, and how that ended."""

    pages: dict[tuple[str, int, int], PackedTasksPage] = field(default_factory=dict)
    written: bool = False
    error: Exception | None = None


class TaskBook:
    """The only writer of tasks. While one transaction runs, the pages that come gather for the next one.

    Ten thousand tasks of a millisecond each are some hundred pages within a second or two: a transaction for
    each of them would hold up the jobs.
    """

    def __init__(self, database: Database, watchers: Watchers) -> None:
        self._database = database
        self._watchers = watchers
        self._batch = _Batch()
        self._turn = asyncio.Lock()
        self._in_hand: Counter[str] = Counter()

    async def take(self, page: PackedTasksPage) -> None:
        """Keep a page unless a newer one is there; it returns after the commit. Doing it again changes nothing."""
        batch = self._batch
        key = (page.job_id, page.job_attempt, page.page)
        if key not in batch.pages or batch.pages[key].revision < page.revision:
            batch.pages[key] = page
        self._in_hand[page.job_id] += 1
        try:
            async with self._turn:
                if not batch.written:
                    await self._write(batch)
        finally:
            self._in_hand[page.job_id] -= 1
            if not self._in_hand[page.job_id]:
                del self._in_hand[page.job_id]
        if batch.error is not None:
            raise batch.error

    async def settled(self, job_id: str) -> None:
        """Return once the pages of a job that are in hand have been tried: its end should not overtake them."""
        if job_id in self._in_hand:
            async with self._turn:  # Turns come in the order in which they were asked for.
                pass

    async def _write(self, batch: _Batch) -> None:
        self._batch = _Batch()
        try:
            attempts, tallies = await self._database.write(lambda connection: self._store(connection, batch))
            # Who began to watch meanwhile may have read the job before the commit, and was not among those watching.
            late = {job_id: n for job_id, n in attempts.items() if job_id not in tallies and self._watched(job_id)}
            if late:
                tallies |= await self._database.read(lambda connection: _tallies(connection, late))
        except Exception as error:  # noqa: BLE001 - Each whose page is in the batch is told.
            batch.error = error
            tallies = {}
        # Not where this was cancelled: then whoever has the next turn writes the batch once more.
        batch.written = True
        for job_id, tally in tallies.items():
            self._watchers.tell_tasks(job_id, tally)

    def _store(self, connection: Connection, batch: _Batch) -> tuple[dict[str, int], dict[str, TaskTally]]:
        attempts = task_rows.store(connection, batch.pages.values())
        watched = {job_id: number for job_id, number in attempts.items() if self._watched(job_id)}
        return attempts, _tallies(connection, watched)

    def _watched(self, job_id: str) -> bool:
        return self._watchers.watched(job_id)


def _tallies(connection: Connection, attempts: Mapping[str, int]) -> dict[str, TaskTally]:
    counts = task_rows.present_counts(connection, list(attempts))
    return {job_id: TaskTally(attempts[job_id], by_state) for job_id, by_state in counts.items()}
