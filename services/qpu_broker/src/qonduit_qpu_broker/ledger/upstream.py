"""What the broker has, or may have, at a provider: written before it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3


@dataclass(frozen=True, slots=True)
class UpstreamJob:
    """A submission; with an intent and no id, nobody knows whether the provider has it."""

    qpu_job_id: str
    instance: str
    tag: str
    intent_at: float
    upstream_id: str


@dataclass(frozen=True, slots=True)
class UpstreamSession:
    """A provider's session or batch; a session of a program may have several, one after another."""

    charge_id: str
    session_id: str
    instance: str
    mode: str
    backend: str
    intent_at: float
    upstream_id: str
    closing: bool
    """Whether it is to be closed."""
    closed_at: float | None


_JOB_NAMES = tuple(field.name for field in fields(UpstreamJob))
_JOB = ", ".join(_JOB_NAMES)
_SESSION = ", ".join(field.name for field in fields(UpstreamSession))


def job(ledger: sqlite3.Connection, qpu_job_id: str) -> UpstreamJob | None:
    """Return a submission, or None if none was ever intended."""
    row = ledger.execute(f"SELECT {_JOB} FROM upstream_jobs WHERE qpu_job_id = ?", (qpu_job_id,)).fetchone()  # noqa: S608 -- columns of our own.
    return None if row is None else UpstreamJob(**dict(row))


def intend(ledger: sqlite3.Connection, new: UpstreamJob) -> None:
    """Write that a submission may be sent from now on; also before it is sent again."""
    ledger.execute(
        f"INSERT INTO upstream_jobs ({_JOB}) VALUES (?, ?, ?, ?, ?)"  # noqa: S608 -- as above.
        " ON CONFLICT (qpu_job_id) DO UPDATE SET intent_at = excluded.intent_at",
        (new.qpu_job_id, new.instance, new.tag, new.intent_at, new.upstream_id),
    )


def withdraw(ledger: sqlite3.Connection, qpu_job_id: str) -> None:
    """Forget an intent: the provider has said that it has no such job."""
    ledger.execute("DELETE FROM upstream_jobs WHERE qpu_job_id = ? AND upstream_id = ''", (qpu_job_id,))


def accepted(ledger: sqlite3.Connection, qpu_job_id: str, upstream_id: str) -> None:
    """Write a submission's id at the provider."""
    ledger.execute("UPDATE upstream_jobs SET upstream_id = ? WHERE qpu_job_id = ?", (upstream_id, qpu_job_id))


def unfinished(ledger: sqlite3.Connection) -> tuple[tuple[UpstreamJob, str], ...]:
    """Return the submissions of jobs that have not ended, each with its device."""
    rows = ledger.execute(
        f"SELECT {_JOB}, backend FROM upstream_jobs JOIN qpu_jobs USING (qpu_job_id) WHERE finished_at IS NULL"  # noqa: S608 -- as above.
        " ORDER BY intent_at"
    )
    return tuple((UpstreamJob(**{name: row[name] for name in _JOB_NAMES}), row["backend"]) for row in rows)


def intents_since(ledger: sqlite3.Connection, instance: str, at: float) -> list[float]:
    """Return when an instance was sent submissions since a time: they count for its limit."""
    rows = ledger.execute(
        "SELECT intent_at FROM upstream_jobs WHERE instance = ? AND intent_at >= ? ORDER BY intent_at", (instance, at)
    )
    return [row["intent_at"] for row in rows]


def session(ledger: sqlite3.Connection, session_id: str) -> UpstreamSession | None:
    """Return the provider's session that a program's session has now, or None."""
    row = ledger.execute(
        f"SELECT {_SESSION} FROM upstream_sessions WHERE session_id = ? AND closed_at IS NULL AND closing = 0",  # noqa: S608 -- as above.
        (session_id,),
    ).fetchone()
    return None if row is None else _session(row)


def open_sessions(ledger: sqlite3.Connection) -> tuple[UpstreamSession, ...]:
    """Return all that are not known to be closed."""
    rows = ledger.execute(f"SELECT {_SESSION} FROM upstream_sessions WHERE closed_at IS NULL ORDER BY intent_at")  # noqa: S608 -- as above.
    return tuple(_session(row) for row in rows)


def open_by_device(ledger: sqlite3.Connection) -> dict[tuple[str, ...], float]:
    """Count those that are not known to be closed, by (device, mode)."""
    rows = ledger.execute(
        "SELECT backend, mode, COUNT(*) AS open FROM upstream_sessions WHERE closed_at IS NULL GROUP BY backend, mode"
    )
    return {(row["backend"], row["mode"]): row["open"] for row in rows}


def _session(row: sqlite3.Row) -> UpstreamSession:
    return UpstreamSession(**{**dict(row), "closing": bool(row["closing"])})


def intend_session(ledger: sqlite3.Connection, new: UpstreamSession) -> None:
    """Write that a session may be opened from now on."""
    ledger.execute(
        f"INSERT INTO upstream_sessions ({_SESSION}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 -- as above.
        tuple(getattr(new, field.name) for field in fields(new)),
    )


def session_opened(ledger: sqlite3.Connection, charge_id: str, upstream_id: str) -> None:
    """Write a session's id at the provider."""
    ledger.execute("UPDATE upstream_sessions SET upstream_id = ? WHERE charge_id = ?", (upstream_id, charge_id))


def session_closing(ledger: sqlite3.Connection, charge_id: str) -> None:
    """Write that a session is to be closed: it is tried until it is done, also by the next process."""
    ledger.execute("UPDATE upstream_sessions SET closing = 1 WHERE charge_id = ?", (charge_id,))


def session_closed(ledger: sqlite3.Connection, charge_id: str, at: float) -> None:
    """Write that a session is closed at the provider, and charged."""
    ledger.execute("UPDATE upstream_sessions SET closing = 1, closed_at = ? WHERE charge_id = ?", (at, charge_id))


def seconds_of_jobs(ledger: sqlite3.Connection, session_id: str) -> float:
    """Return the seconds of a session's jobs, as far as they are known."""
    row = ledger.execute("SELECT COALESCE(SUM(qpu_s), 0) FROM qpu_jobs WHERE session_id = ?", (session_id,)).fetchone()
    return float(row[0])


def known_ids(ledger: sqlite3.Connection, instance: str) -> set[str]:
    """Return the ids of all sessions that the broker ever opened in an instance."""
    rows = ledger.execute("SELECT upstream_id FROM upstream_sessions WHERE instance = ?", (instance,))
    return {row["upstream_id"] for row in rows}
