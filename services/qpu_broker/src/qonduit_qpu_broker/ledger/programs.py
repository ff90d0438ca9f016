"""Which programs talk to the broker, and what they must still be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qonduit_service_kit.messages import Address, QpuState, QpuTransition

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Due:
    """A transition that is to be published."""

    position: int
    to: Address
    program_ended: bool
    """Whether the attempt that submitted the job is over."""
    transition: QpuTransition


def note_program(ledger: sqlite3.Connection, job_id: str, attempt: int, user: str) -> bool:
    """Note that an attempt lives; False if it is over."""
    ledger.execute(
        "INSERT INTO programs (job_id, attempt, user) VALUES (?1, ?2, ?3) ON CONFLICT (job_id) DO UPDATE SET"
        " ended = CASE WHEN ?2 > attempt THEN 0 ELSE ended END, attempt = ?2 WHERE ?2 >= attempt",
        (job_id, attempt, user),
    )
    row = ledger.execute("SELECT attempt, ended FROM programs WHERE job_id = ?", (job_id,)).fetchone()
    return bool(row["attempt"] == attempt and not row["ended"])


def end_program(ledger: sqlite3.Connection, job_id: str, attempt: int) -> bool:
    """Note that an attempt is over, also one that was never heard of; False if a later one has begun.

    True again when told again: the broker may have died before it had cleared up.
    """
    done = ledger.execute(
        "INSERT INTO programs (job_id, attempt, user, ended) VALUES (?1, ?2, '', 1) ON CONFLICT (job_id) DO UPDATE SET"
        " ended = 1, attempt = ?2 WHERE attempt <= ?2",
        (job_id, attempt),
    )
    return done.rowcount > 0


def due(ledger: sqlite3.Connection, limit: int, *, after: int = 0) -> tuple[Due, ...]:
    """Return transitions behind a position that are not confirmed yet, in the order they happened."""
    rows = ledger.execute(
        "SELECT t.position, t.qpu_job_id, t.sequence, t.state, t.at, t.text, t.qpu_s, t.ahead, t.wait_s,"
        " j.job_id, j.attempt, j.backend,"
        " j.reply_exchange, j.reply_key, p.ended OR j.attempt < p.attempt AS over"
        " FROM transitions t JOIN qpu_jobs j USING (qpu_job_id)"
        " JOIN programs p USING (job_id) WHERE t.published = 0 AND t.position > ? ORDER BY t.position LIMIT ?",
        (after, limit),
    )
    return tuple(
        Due(
            position=row["position"],
            to=Address(row["reply_exchange"], row["reply_key"]),
            program_ended=bool(row["over"]),
            transition=QpuTransition(
                qpu_job_id=row["qpu_job_id"],
                job_id=row["job_id"],
                attempt=row["attempt"],
                sequence=row["sequence"],
                state=QpuState(row["state"]),
                at=row["at"],
                backend=row["backend"],
                text=row["text"],
                qpu_seconds=row["qpu_s"],
                ahead=row["ahead"],
                wait_s=row["wait_s"],
            ),
        )
        for row in rows
    )


def published(ledger: sqlite3.Connection, confirmed: Iterable[Due]) -> None:
    """Note that transitions were confirmed by the bus, unless a new attempt took their job over meanwhile."""
    ledger.executemany(
        "UPDATE transitions SET published = 1 WHERE position = ? AND EXISTS"
        " (SELECT 1 FROM qpu_jobs j WHERE j.qpu_job_id = transitions.qpu_job_id AND j.attempt = ?)",
        [(due.position, due.transition.attempt) for due in confirmed],
    )
