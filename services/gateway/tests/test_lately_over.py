"""What is remembered of jobs that just ended, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway_book import event, job_row
from qonduit_gateway.database import job_rows
from qonduit_gateway.jobs.model import JobState
from qonduit_gateway.lately_over import REMEMBER_S, LatelyOver
from qonduit_service_kit.messages import EventKind, Reason

if TYPE_CHECKING:
    from gateway_book import Book


async def test_a_job_is_remembered_for_some_seconds_after_its_end(book: Book) -> None:
    job = await book.database.read(job_row(await book.job()))
    assert job is not None
    now = 0.0
    over = LatelyOver(lambda: now)
    assert over.get(job.job_id) is None
    over.add(job, None)
    now = REMEMBER_S - 0.1
    assert over.get(job.job_id) is job
    now = REMEMBER_S
    assert over.get(job.job_id) is None


async def test_a_job_that_ended_is_found_without_the_database_until_it_is_deleted(book: Book) -> None:
    job_id = await book.job()
    running = await book.ledger.find(job_id)
    assert running is not None
    assert running.progress.state is JobState.QUEUED
    await book.ledger.apply(event(job_id, 0, EventKind.FINISHED))
    at_the_end = await book.database.read(job_row(job_id))
    await book.database.write(lambda connection: job_rows.bury(connection, job_id, at=book.now))
    assert await book.ledger.find(job_id) == at_the_end
    assert not await book.ledger.delete(job_id)
    assert await book.ledger.find(job_id) is None


async def test_a_job_that_goes_on_is_read_each_time(book: Book) -> None:
    job_id = await book.job()
    await book.ledger.apply(event(job_id, 0, EventKind.RUNNING))
    await book.database.write(lambda connection: job_rows.bury(connection, job_id, at=book.now))
    assert await book.ledger.find(job_id) is None


async def test_a_small_result_that_was_told_with_the_end_is_at_hand_until_the_job_is_deleted(book: Book) -> None:
    job_id = await book.job()
    told = {"result_digest": "d" * 64, "result_bytes": 2}
    await book.ledger.apply(event(job_id, 1, EventKind.FINISHED, **told, result=b"42"))
    job = await book.ledger.find(job_id)
    assert job is not None
    await book.ledger.apply(event(job_id, 1, EventKind.FINISHED, **told))
    await book.ledger.apply(event(job_id, 2, EventKind.FINISHED, **told, result=b"23"))
    assert book.ledger.small_result(job) == b"42"
    assert await book.ledger.delete(job_id)
    assert book.ledger.small_result(job) is None


async def test_what_a_failed_job_saved_is_no_result(book: Book) -> None:
    job_id = await book.job()
    await book.ledger.apply(event(job_id, 1, EventKind.FINISHED, reason=Reason.PROGRAM_ERROR, result=b"42"))
    job = await book.ledger.find(job_id)
    assert job is not None
    assert book.ledger.small_result(job) is None
