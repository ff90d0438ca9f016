"""Who watches a job is told each change, and of its tasks the newest counts now and then."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway_book import asked_for
from qonduit_gateway.jobs.tasks import TaskTally
from qonduit_gateway.watchers import Watchers
from qonduit_service_kit.messages import TaskState

if TYPE_CHECKING:
    import pytest
    from gateway_book import Book


def tally(done: int) -> TaskTally:
    return TaskTally(1, {TaskState.DONE: done})


async def test_a_flood_of_counts_is_few_updates_with_the_newest_at_the_end() -> None:
    watchers = Watchers()
    with watchers.watch("j") as watch:
        updates = 0
        for done in range(1, 1001):
            watchers.tell_tasks("j", tally(done))
            if done % 10 == 0:
                await asyncio.sleep(0)
        while watch.tasks != tally(1000) or not updates:
            assert await watch.next() is None
            updates += 1
        assert updates <= 3
    assert not watchers.watched("j")


async def test_a_change_does_not_wait_for_the_pause_between_counts(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qonduit_gateway.watchers._TASKS_PAUSE_S", 10_000.0)
    watchers = Watchers()
    job = (await book.ledger.submit(asked_for(await book.submission()), None))[0]
    with watchers.watch(job.job_id) as watch:
        watchers.tell_tasks(job.job_id, tally(1))
        assert await watch.next() is None
        watchers.tell_tasks(job.job_id, tally(2))
        waiting = asyncio.create_task(watch.next())
        await asyncio.sleep(0)
        watchers.tell(job)
        assert await waiting is job
        assert watch.tasks == tally(2)
