"""Sessions and batches in the ledger."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qonduit_qpu_broker.ledger.records import SESSION_COLUMNS, SessionRecord, session_of

if TYPE_CHECKING:
    import sqlite3


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session to be written."""

    job_id: str
    user: str
    attempt: int
    caller: str
    call_number: int
    digest: str
    mode: str
    backend: str
    instance: str
    max_ttl_s: int


@dataclass(frozen=True, slots=True)
class SessionTimes:
    """What a session's jobs say about it."""

    unfinished: int
    first_started: float | None
    last_started: float | None
    last_finished: float | None
    charged_s: float
    held_s: float | None
    """What a provider charged for the whole session by the clock, once it is closed there."""


def open_session(ledger: sqlite3.Connection, session: NewSession) -> SessionRecord:
    """Write a session, or open again the one that this very call made in an earlier attempt.

    It keeps its id, so that a program that runs again posts the same bodies, and gets what it paid for.
    """
    row = ledger.execute(
        f"SELECT {SESSION_COLUMNS}, attempt FROM qpu_sessions"  # noqa: S608 -- columns of our own.
        " WHERE job_id = ?1 AND digest = ?2 AND (attempt < ?3 OR (attempt = ?3"
        " AND caller = ?4 AND call_number = ?5)) ORDER BY attempt DESC, created_at LIMIT 1",
        (session.job_id, session.digest, session.attempt, session.caller, session.call_number),
    ).fetchone()
    if row is not None:
        found = session_of(row)
        if row["attempt"] < session.attempt:
            ledger.execute(
                "UPDATE qpu_sessions SET accepting = 1, closed_at = NULL, activated_at = NULL, created_at = ?,"
                " attempt = ?, caller = ?, call_number = ? WHERE session_id = ?",
                (time.time(), session.attempt, session.caller, session.call_number, found.session_id),
            )
        return get(ledger, found.session_id) or found
    session_id = str(uuid.uuid4())
    ledger.execute(
        "INSERT INTO qpu_sessions (session_id, job_id, user, attempt, caller, call_number, digest, mode, backend,"
        " instance, max_ttl_s, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            session_id,
            session.job_id,
            session.user,
            session.attempt,
            session.caller,
            session.call_number,
            session.digest,
            session.mode,
            session.backend,
            session.instance,
            session.max_ttl_s,
            time.time(),
        ),
    )
    record = get(ledger, session_id)
    if record is None:
        raise RuntimeError(f"session {session_id} was written and is not there")
    return record


def get(ledger: sqlite3.Connection, session_id: str) -> SessionRecord | None:
    """Return a session, or None."""
    row = ledger.execute(
        f"SELECT {SESSION_COLUMNS} FROM qpu_sessions WHERE session_id = ?",  # noqa: S608 -- columns of our own.
        (session_id,),
    ).fetchone()
    return None if row is None else session_of(row)


def close(ledger: sqlite3.Connection, session_id: str) -> bool:
    """Accept no more jobs; closed at once if none is left (True), else when the last one ends."""
    ledger.execute("UPDATE qpu_sessions SET accepting = 0 WHERE session_id = ?", (session_id,))
    return settle(ledger, session_id)


def settle(ledger: sqlite3.Connection, session_id: str) -> bool:
    """Close a session that accepts no more and has nothing left to run: True if it is closed by this."""
    done = ledger.execute(
        "UPDATE qpu_sessions SET closed_at = ?1 WHERE session_id = ?2 AND accepting = 0 AND closed_at IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM qpu_jobs WHERE session_id = ?2 AND finished_at IS NULL)",
        (time.time(), session_id),
    )
    return done.rowcount > 0


def settled_open_upstream(ledger: sqlite3.Connection) -> tuple[str, ...]:
    """Return closed sessions of which a provider's is not: the broker may have died between the two."""
    rows = ledger.execute(
        "SELECT DISTINCT session_id FROM qpu_sessions JOIN upstream_sessions u USING (session_id)"
        " WHERE qpu_sessions.closed_at IS NOT NULL AND u.closed_at IS NULL"
    )
    return tuple(row["session_id"] for row in rows)


def activate(ledger: sqlite3.Connection, session_id: str, at: float) -> None:
    """Note when a session's first job began; only from then on does it cost anything."""
    ledger.execute(
        "UPDATE qpu_sessions SET activated_at = ? WHERE session_id = ? AND activated_at IS NULL", (at, session_id)
    )


def times(ledger: sqlite3.Connection, session_id: str) -> SessionTimes:
    """Return what a session's jobs say about it."""
    row = ledger.execute(
        "SELECT COUNT(*) FILTER (WHERE finished_at IS NULL) AS unfinished, MIN(running_at) AS first_started,"
        " MAX(running_at) AS last_started, MAX(finished_at) AS last_finished, COALESCE(SUM(qpu_s), 0) AS charged_s,"
        " (SELECT SUM(qpu_seconds) FROM charges JOIN upstream_sessions u USING (charge_id) WHERE u.session_id = ?1)"
        " AS held_s FROM qpu_jobs WHERE session_id = ?1",
        (session_id,),
    ).fetchone()
    return SessionTimes(**{name: row[name] for name in row.keys()})  # noqa: SIM118 -- a Row iterates over values.


def open_of(ledger: sqlite3.Connection, job_id: str) -> tuple[str, ...]:
    """Return the ids of a program's sessions that still accept jobs."""
    rows = ledger.execute("SELECT session_id FROM qpu_sessions WHERE job_id = ? AND accepting = 1", (job_id,))
    return tuple(row["session_id"] for row in rows)


def open_by_device(ledger: sqlite3.Connection) -> dict[tuple[str, ...], float]:
    """Count the sessions that are open, by (device, mode)."""
    rows = ledger.execute(
        "SELECT backend, mode, COUNT(*) AS open FROM qpu_sessions WHERE closed_at IS NULL GROUP BY backend, mode"
    )
    return {(row["backend"], row["mode"]): row["open"] for row in rows}
