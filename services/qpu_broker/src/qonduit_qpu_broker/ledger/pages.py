"""One user's jobs and sessions, newest first, a page at a time.

A page begins where the last one ended, whatever was added or has ended meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qonduit_qpu_broker.ledger import sessions
from qonduit_qpu_broker.ledger.records import JOB_COLUMNS, SESSION_COLUMNS, job_of, session_of

if TYPE_CHECKING:
    import sqlite3

    from qonduit_qpu_broker.ledger.records import JobRecord, SessionRecord
    from qonduit_qpu_broker.ledger.sessions import SessionTimes

_NEWEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class PageOf:
    """Which page of whose."""

    user: str
    limit: int
    before: int = _NEWEST
    """The row where the last page ended."""
    pending: bool = False
    """Only what has not ended."""


def jobs_page(ledger: sqlite3.Connection, wanted: PageOf) -> list[tuple[int, JobRecord]]:
    """Return jobs with the number of their row."""
    rows = ledger.execute(
        f"SELECT position, {JOB_COLUMNS} FROM qpu_jobs"  # noqa: S608 -- columns of our own.
        " WHERE user = ? AND position < ? AND delete_request_id = '' AND superseded = 0"
        + (" AND finished_at IS NULL" if wanted.pending else "")
        + " ORDER BY position DESC LIMIT ?",
        (wanted.user, wanted.before, wanted.limit),
    )
    return [(row["position"], job_of(row)) for row in rows]


def sessions_page(
    ledger: sqlite3.Connection, wanted: PageOf, *, now: float
) -> list[tuple[int, SessionRecord, SessionTimes]]:
    """Return sessions and batches with the number of their row, and what their jobs say about them."""
    rows = ledger.execute(
        f"SELECT rowid AS position, {SESSION_COLUMNS} FROM qpu_sessions"  # noqa: S608 -- columns of our own.
        " WHERE user = ? AND rowid < ?"
        + (" AND closed_at IS NULL AND created_at + max_ttl_s >= ?" if wanted.pending else " AND ?")
        + " ORDER BY rowid DESC LIMIT ?",
        (wanted.user, wanted.before, now, wanted.limit),
    ).fetchall()
    found = [(row["position"], session_of(row)) for row in rows]
    return [(position, session, sessions.times(ledger, session.session_id)) for position, session in found]
