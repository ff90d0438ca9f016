"""What programs tell their users of errors, from the event to the words of Qiskit Serverless."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gateway_book import event, job_row
from qonduit_gateway.api import convert
from qonduit_gateway.database import history_rows
from qonduit_gateway.jobs.transitions import Verdict
from qonduit_gateway.rest import wording
from qonduit_service_kit.messages import EventKind, JobEvent, Reason, Stage, ToldError

if TYPE_CHECKING:
    from gateway_book import Book
    from qonduit_api.v1 import jobs_pb2

WARNED = ToldError("W1", "the lamp flickers", "Warning", '{"lamp": 7}')
BROKEN = ToldError("E42", "the lamp\0 is broken", "ServerlessError")


def warned(job_id: str, attempt: int = 1) -> JobEvent:
    return event(job_id, 2, EventKind.STAGE, attempt, stage=Stage.MAPPING, error=WARNED, text="[W1] the lamp flickers")


def failed(job_id: str, error: ToldError | None = BROKEN) -> JobEvent:
    return event(job_id, 3, EventKind.FINISHED, reason=Reason.PROGRAM_ERROR, text="a traceback", error=error)


async def seen(book: Book, job_id: str) -> tuple[list[jobs_pb2.TimelineEntry], list[dict[str, Any]]]:
    """Return a job's timeline, and the data of its events of errors."""
    history = await book.database.read(lambda connection: history_rows.history(connection, job_id))
    job = await book.database.read(job_row(job_id))
    assert job is not None
    entries = [convert.timeline_entry(entry) for entry in history]
    events = wording.events(convert.job(job), entries)
    return entries, [each["data"] for each in events if each["event_type"] == "ERROR"]


async def test_an_error_that_a_program_tells_is_kept_once_at_its_stage(book: Book) -> None:
    await book.user()
    job_id = await book.job()
    assert await book.ledger.apply(event(job_id, 1, EventKind.RUNNING)) is Verdict.APPLIED
    assert await book.ledger.apply(warned(job_id)) is Verdict.APPLIED
    assert await book.ledger.apply(warned(job_id)) is Verdict.IGNORED
    assert await book.ledger.apply(warned(job_id, attempt=2)) is Verdict.STALE
    entries, errors = await seen(book, job_id)
    (told,) = [entry for entry in entries if entry.HasField("error")]
    assert (told.status, told.text) == ("RUNNING: MAPPING", "[W1] the lamp flickers")
    assert errors == [
        {"code": "W1", "message": "the lamp flickers", "exception": "Warning", "args": {"lamp": 7}},
    ]


async def test_a_job_that_ends_with_a_told_error_failed_with_that_and_nothing_else(book: Book) -> None:
    await book.user()
    job_id = await book.job()
    for each in (event(job_id, 1, EventKind.RUNNING), warned(job_id), failed(job_id)):
        await book.ledger.apply(each)
    _, errors = await seen(book, job_id)
    assert [error["code"] for error in errors] == ["E42", "W1"], "the newest comes first"
    assert errors[0]["message"] == "the lamp\N{REPLACEMENT CHARACTER} is broken"
    assert errors[0]["args"] is None


async def test_an_error_that_was_told_before_the_end_is_not_told_twice(book: Book) -> None:
    await book.user()
    job_id = await book.job()
    for each in (event(job_id, 1, EventKind.RUNNING), warned(job_id), failed(job_id, WARNED)):
        await book.ledger.apply(each)
    _, errors = await seen(book, job_id)
    assert [error["code"] for error in errors] == ["W1"]


async def test_an_error_that_is_told_twice_happened_twice(book: Book) -> None:
    await book.user()
    job_id = await book.job()
    for each in (event(job_id, 1, EventKind.RUNNING), warned(job_id), replace(warned(job_id), sequence=3)):
        await book.ledger.apply(each)
    _, errors = await seen(book, job_id)
    assert [error["code"] for error in errors] == ["W1", "W1"]


async def test_what_ended_a_job_is_told_beside_what_its_program_told_and_went_on_after(book: Book) -> None:
    await book.user()
    job_id = await book.job()
    for each in (event(job_id, 1, EventKind.RUNNING), warned(job_id), failed(job_id, None)):
        await book.ledger.apply(each)
    _, errors = await seen(book, job_id)
    assert [(error["code"], error["message"]) for error in errors] == [
        ("PROGRAM_ERROR", "a traceback"),
        ("W1", "the lamp flickers"),
    ]
