"""QPU jobs in the ledger."""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING

from qonduit_service_kit.messages import QpuState

from qonduit_qpu_broker.ledger.records import JOB_COLUMNS, JobRecord, NewJob, job_of
from qonduit_qpu_broker.states import steps

if TYPE_CHECKING:
    import sqlite3

    from qonduit_qpu_broker.queueing import Place


def submit(ledger: sqlite3.Connection, job: NewJob, place: Place | None = None) -> tuple[JobRecord, bool]:
    """Write a job and its first transition, or return the one that this call made before; and whether it is new.

    A call is known by attempt, caller, call number and digest. When a program runs again after a lost worker, the
    first call with a body takes over a job of an earlier attempt with that body, and with it what was paid for; its
    steps are told again, to the new attempt. What ended without a result is submitted anew.
    """
    found = _find(
        ledger,
        "attempt = ? AND caller = ? AND call_number = ?",
        job,
        (job.attempt, job.caller, job.call_number),
    )
    if found is not None:
        return found, False
    lost = (QpuState.FAILED, QpuState.CANCELLED)
    earlier = _find(ledger, "attempt < ? AND state NOT IN (?, ?)", job, (job.attempt, *lost))
    if earlier is not None:
        return _take_over(ledger, earlier, job), False
    ledger.execute(
        "UPDATE qpu_jobs SET superseded = 1 WHERE job_id = ? AND digest = ? AND attempt < ? AND state IN (?, ?)",
        (job.job_id, job.digest, job.attempt, *lost),
    )
    return _insert(ledger, job, place), True


def _find(ledger: sqlite3.Connection, condition: str, job: NewJob, values: tuple[object, ...]) -> JobRecord | None:
    row = ledger.execute(
        f"SELECT {JOB_COLUMNS} FROM qpu_jobs WHERE job_id = ? AND digest = ? AND superseded = 0"  # noqa: S608 -- our own.
        f" AND {condition} ORDER BY position LIMIT 1",
        (job.job_id, job.digest, *values),
    ).fetchone()
    return None if row is None else job_of(row)


def _take_over(ledger: sqlite3.Connection, earlier: JobRecord, job: NewJob) -> JobRecord:
    ledger.execute(
        "UPDATE qpu_jobs SET attempt = ?, caller = ?, call_number = ?, reply_exchange = ?, reply_key = ?"
        " WHERE qpu_job_id = ?",
        (job.attempt, job.caller, job.call_number, job.reply_to.exchange, job.reply_to.key, earlier.qpu_job_id),
    )
    ledger.execute("UPDATE transitions SET published = 0 WHERE qpu_job_id = ?", (earlier.qpu_job_id,))
    return get(ledger, earlier.qpu_job_id) or earlier


def _insert(ledger: sqlite3.Connection, job: NewJob, place: Place | None) -> JobRecord:
    now = time.time()
    qpu_job_id = f"q{secrets.token_hex(10)}"
    ledger.execute(
        "INSERT INTO qpu_jobs (qpu_job_id, job_id, attempt, user, caller, call_number, digest,"
        " reply_exchange, reply_key, program, backend, session_id,"
        " tags, private, cost_s, api_version, body, body_digest, state, created_at,"
        " job_budget_s, user_budget_s, simulated, traceparent)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            qpu_job_id,
            job.job_id,
            job.attempt,
            job.user,
            job.caller,
            job.call_number,
            job.digest,
            job.reply_to.exchange,
            job.reply_to.key,
            job.program,
            job.backend,
            job.session_id,
            json.dumps(job.tags),
            job.private,
            job.cost_s,
            job.api_version,
            job.body,
            job.body_digest,
            QpuState.QUEUED,
            now,
            job.budget.job_s,
            job.budget.user_s,
            job.simulated,
            job.traceparent,
        ),
    )
    _add_transition(ledger, qpu_job_id, QpuState.QUEUED, now, place=place)
    record = get(ledger, qpu_job_id)
    if record is None:
        raise RuntimeError(f"{qpu_job_id} was written and is not there")
    return record


def advance(
    ledger: sqlite3.Connection,
    qpu_job_id: str,
    target: QpuState,
    *,
    at: float,
    reason: str = "",
    code: int = 0,
    qpu_s: float | None = None,
    result: bytes | None = None,
    result_digest: str = "",
) -> JobRecord | None:
    """Move a job to a state, passing none over, and return it; None if there was nothing to do.

    A report that comes late or twice changes nothing, so that seconds are booked once.
    """
    record = get(ledger, qpu_job_id)
    if record is None:
        return None
    path = steps(record.state, target)
    for state in path:
        if state == QpuState.RUNNING:
            ledger.execute(
                "UPDATE qpu_jobs SET state = ?, running_at = ? WHERE qpu_job_id = ?", (state, at, qpu_job_id)
            )
            _add_transition(ledger, qpu_job_id, state, at)
        else:
            ledger.execute(
                "UPDATE qpu_jobs SET state = ?, finished_at = ?, reason = ?, reason_code = ?, qpu_s = ?, result = ?,"
                " result_digest = ? WHERE qpu_job_id = ?",
                (state, at, reason, code, qpu_s, result, result_digest, qpu_job_id),
            )
            _add_transition(ledger, qpu_job_id, state, at, text=reason, qpu_s=qpu_s)
    return get(ledger, qpu_job_id) if path else None


def _add_transition(
    ledger: sqlite3.Connection,
    qpu_job_id: str,
    state: QpuState,
    at: float,
    *,
    text: str = "",
    qpu_s: float | None = None,
    place: Place | None = None,
) -> None:
    ahead, wait_s = (None, None) if place is None else (place.ahead, place.wait_s)
    ledger.execute(
        "INSERT INTO transitions (qpu_job_id, sequence, state, at, text, qpu_s, ahead, wait_s) VALUES "
        "(?1, (SELECT COUNT(*) FROM transitions WHERE qpu_job_id = ?1), ?2, ?3, ?4, ?5, ?6, ?7)",
        (qpu_job_id, state, at, text, qpu_s, ahead, wait_s),
    )


def get(ledger: sqlite3.Connection, qpu_job_id: str) -> JobRecord | None:
    """Return a job, or None."""
    row = ledger.execute(
        f"SELECT {JOB_COLUMNS} FROM qpu_jobs WHERE qpu_job_id = ?",  # noqa: S608 -- column names of our own.
        (qpu_job_id,),
    ).fetchone()
    return None if row is None else job_of(row)


def body(ledger: sqlite3.Connection, qpu_job_id: str) -> bytes | None:
    """Return the body kept in the row, or None when it is in storage."""
    row = ledger.execute("SELECT body FROM qpu_jobs WHERE qpu_job_id = ?", (qpu_job_id,)).fetchone()
    return None if row is None else row["body"]


def result(ledger: sqlite3.Connection, qpu_job_id: str) -> bytes | None:
    """Return the result kept in the row, or None when it is in storage or not there."""
    row = ledger.execute("SELECT result FROM qpu_jobs WHERE qpu_job_id = ?", (qpu_job_id,)).fetchone()
    return None if row is None else row["result"]


def unfinished(ledger: sqlite3.Connection) -> tuple[JobRecord, ...]:
    """Return the jobs that are not final, oldest first."""
    rows = ledger.execute(
        f"SELECT {JOB_COLUMNS} FROM qpu_jobs WHERE finished_at IS NULL ORDER BY position"  # noqa: S608 -- as above.
    )
    return tuple(job_of(row) for row in rows)


def left_of(
    ledger: sqlite3.Connection, *, job_id: str = "", session_id: str = "", running: bool = False
) -> tuple[JobRecord, ...]:
    """Return a program's or a session's jobs that have not begun; with `running`, all that have not ended."""
    column, value = ("job_id", job_id) if job_id else ("session_id", session_id)
    states = (QpuState.QUEUED, QpuState.RUNNING if running else QpuState.QUEUED)
    rows = ledger.execute(
        f"SELECT {JOB_COLUMNS} FROM qpu_jobs WHERE {column} = ? AND state IN (?, ?) ORDER BY position",  # noqa: S608 -- one of two.
        (value, *states),
    )
    return tuple(job_of(row) for row in rows)


def note_cancel(ledger: sqlite3.Connection, qpu_job_id: str, request_id: str) -> None:
    """Remember which request cancelled a job, so that the same request again is not refused."""
    ledger.execute("UPDATE qpu_jobs SET cancel_request_id = ? WHERE qpu_job_id = ?", (request_id, qpu_job_id))


def note_cancelling(ledger: sqlite3.Connection, qpu_job_id: str, reason: str) -> None:
    """Remember that a job is to be cancelled: it may take its time, and the broker may be another one by then."""
    ledger.execute("UPDATE qpu_jobs SET cancelling = ? WHERE qpu_job_id = ?", (reason, qpu_job_id))


def note_delete(ledger: sqlite3.Connection, qpu_job_id: str, request_id: str) -> None:
    """Hide a job from its program and drop its bytes; what it cost stays."""
    ledger.execute(
        "UPDATE qpu_jobs SET delete_request_id = ?, body = NULL, result = NULL WHERE qpu_job_id = ?",
        (request_id, qpu_job_id),
    )


def set_tags(ledger: sqlite3.Connection, qpu_job_id: str, tags: tuple[str, ...]) -> None:
    """Replace a job's tags."""
    ledger.execute("UPDATE qpu_jobs SET tags = ? WHERE qpu_job_id = ?", (json.dumps(tags), qpu_job_id))
