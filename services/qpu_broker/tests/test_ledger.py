from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import qpu_jobs
from qonduit_qpu_broker.ledger import charges, jobs, listing, programs, sessions
from qonduit_qpu_broker.ledger.schema import connect
from qonduit_qpu_broker.ledger.thread import LedgerThread, LedgerUnavailableError
from qonduit_service_kit.messages import Address, QpuState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INBOX = Address("qonduit.workers", "w1")
JOB = replace(qpu_jobs.JOB, digest="d1", reply_to=INBOX, tags=("mine",), api_version="2026-04-15")
SESSION = sessions.NewSession("job-1", "ada", 1, "driver", 1, "s", "batch", "ibm_torino", "crn:", 60)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = connect(tmp_path / "ledger.sqlite3")
    programs.note_program(connection, "job-1", 1, "ada")
    yield connection
    connection.close()


def _complete(ledger: sqlite3.Connection, qpu_job_id: str, qpu_s: float = 2.0) -> None:
    jobs.advance(ledger, qpu_job_id, QpuState.COMPLETED, at=2.0, qpu_s=qpu_s, result=b"counts")
    charges.book_job(ledger, qpu_job_id, qpu_s, 2.0)


def test_the_same_call_is_one_job(ledger: sqlite3.Connection) -> None:
    first, new = jobs.submit(ledger, JOB)
    again, new_again = jobs.submit(ledger, JOB)
    assert (new, new_again) == (True, False)
    assert first == again
    assert jobs.submit(ledger, replace(JOB, call_number=2))[1]
    assert jobs.submit(ledger, replace(JOB, digest="d2"))[1]


def test_two_executors_that_post_the_same_have_a_job_each_and_hear_of_their_own(ledger: sqlite3.Connection) -> None:
    elsewhere = Address("qonduit.workers", "w2")
    first, _ = jobs.submit(ledger, JOB)
    second, new = jobs.submit(ledger, replace(JOB, caller="executor", reply_to=elsewhere))
    assert new
    heard = {due.transition.qpu_job_id: due.to for due in programs.due(ledger, 10)}
    assert heard == {first.qpu_job_id: INBOX, second.qpu_job_id: elsewhere}
    again = [jobs.submit(ledger, replace(JOB, attempt=2, caller=caller))[0] for caller in ("x", "y")]
    assert [job.qpu_job_id for job in again] == [first.qpu_job_id, second.qpu_job_id]


def test_a_new_attempt_gets_the_paid_result_and_hears_all_steps_again(ledger: sqlite3.Connection) -> None:
    first, _ = jobs.submit(ledger, JOB)
    _complete(ledger, first.qpu_job_id)
    programs.published(ledger, programs.due(ledger, 10))
    assert programs.due(ledger, 10) == ()
    programs.note_program(ledger, "job-1", 2, "ada")
    again, new = jobs.submit(ledger, replace(JOB, attempt=2))
    assert not new
    assert (again.qpu_job_id, again.state) == (first.qpu_job_id, QpuState.COMPLETED)
    told = [(due.transition.sequence, due.transition.attempt) for due in programs.due(ledger, 10)]
    assert told == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize("ended", [QpuState.CANCELLED, QpuState.FAILED])
def test_what_ended_without_a_result_is_submitted_anew_for_a_new_attempt_only(
    ledger: sqlite3.Connection, ended: QpuState
) -> None:
    first, _ = jobs.submit(ledger, JOB)
    jobs.advance(ledger, first.qpu_job_id, ended, at=2.0, qpu_s=0.0)
    assert jobs.submit(ledger, JOB)[0].qpu_job_id == first.qpu_job_id
    second, new = jobs.submit(ledger, replace(JOB, attempt=2))
    assert new
    assert second.qpu_job_id != first.qpu_job_id
    assert listing.list_jobs(ledger, listing.JobFilter(job_id="job-1"))[1] == 1


def test_seconds_are_booked_once_and_steps_have_no_gap(ledger: sqlite3.Connection) -> None:
    job, _ = jobs.submit(ledger, JOB)
    _complete(ledger, job.qpu_job_id)
    _complete(ledger, job.qpu_job_id, qpu_s=50.0)
    jobs.advance(ledger, job.qpu_job_id, QpuState.RUNNING, at=9.0)
    assert charges.by_device(ledger) == {("ibm_torino", "job"): 2.0}
    told = [
        (due.transition.sequence, due.transition.state, due.transition.qpu_seconds) for due in programs.due(ledger, 9)
    ]
    assert told == [(0, QpuState.QUEUED, None), (1, QpuState.RUNNING, None), (2, QpuState.COMPLETED, 2.0)]


def test_an_attempt_that_is_over_may_not_submit(ledger: sqlite3.Connection) -> None:
    assert programs.note_program(ledger, "job-1", 2, "ada")
    assert not programs.note_program(ledger, "job-1", 1, "ada")
    assert programs.end_program(ledger, "job-1", 2)
    assert programs.end_program(ledger, "job-1", 2), "told again: whoever was told first may not have got far"
    assert not programs.note_program(ledger, "job-1", 2, "ada")
    assert programs.note_program(ledger, "job-1", 3, "ada")
    assert not programs.end_program(ledger, "job-1", 2), "a late end of an old attempt ends nothing"


def test_what_is_taken_over_while_the_bus_confirms_is_told_again(ledger: sqlite3.Connection) -> None:
    jobs.submit(ledger, JOB)
    being_told = programs.due(ledger, 10)
    programs.note_program(ledger, "job-1", 2, "ada")
    jobs.submit(ledger, replace(JOB, attempt=2))
    programs.published(ledger, being_told)
    assert [(due.transition.sequence, due.transition.attempt) for due in programs.due(ledger, 10)] == [(0, 2)]


def test_a_program_whose_end_was_heard_first_may_not_submit(ledger: sqlite3.Connection) -> None:
    assert programs.end_program(ledger, "job-2", 1)
    assert not programs.note_program(ledger, "job-2", 1, "ada")
    assert programs.note_program(ledger, "job-2", 2, "ada")
    assert programs.end_program(ledger, "job-1", 2)
    assert not programs.note_program(ledger, "job-1", 2, "ada"), "it was heard of, but not this attempt"


async def test_a_full_disk_stops_nothing_but_the_write_that_met_it(tmp_path: Path) -> None:
    ledger = LedgerThread(tmp_path / "ledger.sqlite3")
    await ledger.start()
    pages = await ledger.run(lambda open_: open_.execute("PRAGMA page_count").fetchone()[0])
    await ledger.run(lambda open_: open_.execute(f"PRAGMA max_page_count = {pages}").fetchone())
    big = replace(JOB, body=b"x" * 100_000)
    with pytest.raises(LedgerUnavailableError, match="full"):
        await ledger.run(lambda open_: jobs.submit(open_, big))
    assert await ledger.run(jobs.unfinished) == ()
    await ledger.run(lambda open_: open_.execute("PRAGMA max_page_count = 1000000").fetchone())
    job, _ = await ledger.run(lambda open_: jobs.submit(open_, big))
    assert await ledger.run(jobs.unfinished) == (job,)
    await ledger.stop()


async def test_a_commit_that_failed_leaves_no_transaction_behind(tmp_path: Path) -> None:
    ledger = LedgerThread(tmp_path / "ledger.sqlite3")
    await ledger.start()

    def break_a_deferred_rule(open_: sqlite3.Connection) -> None:
        open_.execute("PRAGMA defer_foreign_keys = ON")
        open_.execute("INSERT INTO transitions (qpu_job_id, sequence, state, at) VALUES ('none', 0, 'Queued', 1.0)")

    with pytest.raises(sqlite3.IntegrityError):
        await ledger.run(break_a_deferred_rule)
    assert await ledger.run(jobs.unfinished) == ()
    await ledger.stop()


def test_a_session_opened_again_keeps_its_id(ledger: sqlite3.Connection) -> None:
    first = sessions.open_session(ledger, SESSION)
    assert sessions.open_session(ledger, replace(SESSION, call_number=2)).session_id != first.session_id
    sessions.close(ledger, first.session_id)
    closed = sessions.get(ledger, first.session_id)
    assert closed is not None
    assert closed.closed_at is not None
    assert sessions.open_session(ledger, SESSION) == closed, "a repeated request opens nothing"
    again = sessions.open_session(ledger, replace(SESSION, attempt=2))
    assert again == replace(first, created_at=again.created_at)
    assert again.created_at > first.created_at, "it may last as long as it asked for, again"


def test_a_session_closes_with_its_last_job(ledger: sqlite3.Connection) -> None:
    session = sessions.open_session(ledger, SESSION)
    job, _ = jobs.submit(ledger, replace(JOB, session_id=session.session_id))
    sessions.close(ledger, session.session_id)
    waiting = sessions.get(ledger, session.session_id)
    assert waiting is not None
    assert (waiting.accepting, waiting.closed_at) == (False, None)
    _complete(ledger, job.qpu_job_id)
    sessions.settle(ledger, session.session_id)
    ended = sessions.get(ledger, session.session_id)
    assert ended is not None
    assert ended.closed_at is not None
    assert charges.by_device(ledger) == {("ibm_torino", "batch"): 2.0}


def test_filters(ledger: sqlite3.Connection) -> None:
    made = [jobs.submit(ledger, replace(JOB, call_number=n, tags=(f"t{n}", "all")))[0] for n in range(5)]
    jobs.submit(ledger, replace(JOB, job_id="job-2", user="eve"))
    _complete(ledger, made[0].qpu_job_id)

    def count(**wanted: object) -> int:
        return listing.list_jobs(ledger, listing.JobFilter(**wanted))[1]  # type: ignore[arg-type]

    assert count(job_id="job-1") == 5
    assert count(user="eve") == 1
    assert count(job_id="job-1", pending=True) == 4
    assert count(job_id="job-1", pending=False) == 1
    assert count(tags=("t3", "all")) == 1
    assert count(tags=("t3", "t4")) == 0
    assert count(created_after=made[0].created_at + 3600) == 0
    assert count(program="estimator") == 0
    page, total = listing.list_jobs(ledger, listing.JobFilter(job_id="job-1", limit=2, offset=1, ascending=True))
    assert (page, total) == (tuple(jobs.get(ledger, job.qpu_job_id) for job in made[1:3]), 5)


def test_what_is_committed_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    first = connect(path)
    job, _ = jobs.submit(first, JOB)
    first.close()
    second = connect(path)
    assert jobs.unfinished(second) == (job,)
    assert jobs.body(second, job.qpu_job_id) == b"{}"
    second.close()


def test_a_ledger_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ValueError, match="newer release"):
        connect(path)
