"""What was charged: one row for each QPU job, and for each dedicated session that is charged by the clock."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from qonduit_service_kit.messages import QpuCharged

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

_COLUMNS = ", ".join(field.name for field in fields(QpuCharged))


@dataclass(frozen=True, slots=True)
class Spent:
    """The QPU seconds of one user, or of one of their jobs."""

    user_s: float
    job_s: float


def book_job(ledger: sqlite3.Connection, qpu_job_id: str, seconds: float, at: float) -> QpuCharged | None:
    """Write a job's charge and return it; None if it was written before, or if its session is charged instead."""
    row = ledger.execute(
        "SELECT j.job_id, j.user, j.backend, COALESCE(s.mode, 'job') AS mode,"
        " s.mode = 'dedicated' AND EXISTS (SELECT 1 FROM upstream_sessions u WHERE u.session_id = j.session_id)"
        " AS by_session FROM qpu_jobs j LEFT JOIN qpu_sessions s USING (session_id) WHERE j.qpu_job_id = ?",
        (qpu_job_id,),
    ).fetchone()
    if row is None:
        return None
    ledger.execute("UPDATE qpu_jobs SET qpu_s = ? WHERE qpu_job_id = ? AND qpu_s IS NULL", (seconds, qpu_job_id))
    if row["by_session"]:
        return None
    return _book(ledger, QpuCharged(qpu_job_id, row["job_id"], row["user"], row["backend"], row["mode"], seconds, at))


def book_session(
    ledger: sqlite3.Connection, charge_id: str, session_id: str, seconds: float, at: float
) -> QpuCharged | None:
    """Write what a dedicated session was charged and return it; None if it was written before."""
    row = ledger.execute(
        "SELECT job_id, user, backend, mode FROM qpu_sessions WHERE session_id = ?", (session_id,)
    ).fetchone()
    if row is None:
        return None
    return _book(ledger, QpuCharged(charge_id, row["job_id"], row["user"], row["backend"], row["mode"], seconds, at))


def _book(ledger: sqlite3.Connection, charge: QpuCharged) -> QpuCharged | None:
    done = ledger.execute(
        f"INSERT INTO charges ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (charge_id) DO NOTHING",  # noqa: S608 -- columns of our own.
        tuple(getattr(charge, field.name) for field in fields(charge)),
    )
    return charge if done.rowcount else None


def due(ledger: sqlite3.Connection, limit: int) -> tuple[QpuCharged, ...]:
    """Return charges that the gateway has not been told of, oldest first."""
    rows = ledger.execute(f"SELECT {_COLUMNS} FROM charges WHERE published = 0 ORDER BY at LIMIT ?", (limit,))  # noqa: S608 -- as above.
    return tuple(QpuCharged(**dict(row)) for row in rows)


def published(ledger: sqlite3.Connection, told: Iterable[QpuCharged]) -> None:
    """Note that charges were confirmed by the bus."""
    ledger.executemany("UPDATE charges SET published = 1 WHERE charge_id = ?", [(charge.charge_id,) for charge in told])


def since(ledger: sqlite3.Connection, at: float) -> list[tuple[str, float, float]]:
    """Return (user, seconds, time) of all charges since a time."""
    rows = ledger.execute("SELECT user, qpu_seconds, at FROM charges WHERE at >= ? ORDER BY at", (at,))
    return [tuple(row) for row in rows]


def by_device(ledger: sqlite3.Connection) -> dict[tuple[str, str], float]:
    """Return all QPU seconds ever charged, by device and mode (job, batch, dedicated)."""
    rows = ledger.execute("SELECT backend, mode, SUM(qpu_seconds) AS total FROM charges GROUP BY 1, 2")
    return {(row["backend"], row["mode"]): row["total"] for row in rows}


def spent(ledger: sqlite3.Connection, user: str, job_id: str, since_at: float, now: float) -> Spent:
    """Return what a user was charged since a time, and one of their jobs ever.

    A dedicated session that is open at a provider counts with the time since it began: it is charged at its end.
    """
    held = (
        "SELECT COALESCE(SUM(?1 - s.activated_at), 0) FROM qpu_sessions s JOIN upstream_sessions u USING (session_id)"
        " WHERE u.closed_at IS NULL AND u.upstream_id != '' AND s.mode = 'dedicated' AND s.activated_at IS NOT NULL"
    )
    by_user = "SELECT COALESCE(SUM(qpu_seconds), 0) FROM charges WHERE user = ? AND at >= ?"
    by_job = "SELECT COALESCE(SUM(qpu_seconds), 0) FROM charges WHERE job_id = ?"
    return Spent(
        ledger.execute(by_user, (user, since_at)).fetchone()[0]
        + ledger.execute(f"{held} AND s.user = ?2", (now, user)).fetchone()[0],
        ledger.execute(by_job, (job_id,)).fetchone()[0]
        + ledger.execute(f"{held} AND s.job_id = ?2", (now, job_id)).fetchone()[0],
    )


def uncharged(ledger: sqlite3.Connection) -> tuple[str, ...]:
    """Return the ids of jobs that have ended and whose charge is not known yet."""
    rows = ledger.execute("SELECT qpu_job_id FROM qpu_jobs WHERE finished_at IS NOT NULL AND qpu_s IS NULL")
    return tuple(row["qpu_job_id"] for row in rows)
