"""Lists and sums over the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qonduit_qpu_broker.ledger.records import JOB_COLUMNS, JobRecord, job_of

if TYPE_CHECKING:
    import sqlite3


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list; empty fields don't restrict."""

    job_id: str = ""
    user: str = ""
    pending: bool | None = None
    program: str = ""
    backend: str = ""
    session_id: str = ""
    tags: tuple[str, ...] = ()
    created_after: float | None = None
    created_before: float | None = None
    limit: int = 20
    offset: int = 0
    ascending: bool = False
    mocks: bool = True
    """Whether jobs on mock devices are among them."""


def list_jobs(ledger: sqlite3.Connection, wanted: JobFilter) -> tuple[tuple[JobRecord, ...], int]:
    """Return a page of jobs and how many there are in all."""
    conditions = ["delete_request_id = ''", "superseded = 0"]
    values: list[object] = []
    for column in ("job_id", "user", "program", "backend", "session_id"):
        if value := getattr(wanted, column):
            conditions.append(f"{column} = ?")
            values.append(value)
    if not wanted.mocks:
        conditions.append("backend NOT GLOB 'mock_*'")
    if wanted.pending is not None:
        conditions.append("finished_at IS NULL" if wanted.pending else "finished_at IS NOT NULL")
    for operator, moment in ((">=", wanted.created_after), ("<=", wanted.created_before)):
        if moment is not None:
            conditions.append(f"created_at {operator} ?")
            values.append(moment)
    for tag in wanted.tags:
        conditions.append("EXISTS (SELECT 1 FROM json_each(tags) WHERE json_each.value = ?)")
        values.append(tag)
    where = " AND ".join(conditions)
    order = "ASC" if wanted.ascending else "DESC"
    count = ledger.execute(f"SELECT COUNT(*) FROM qpu_jobs WHERE {where}", values).fetchone()[0]  # noqa: S608 -- no value is in the text.
    rows = ledger.execute(
        f"SELECT {JOB_COLUMNS} FROM qpu_jobs WHERE {where} ORDER BY position {order} LIMIT ? OFFSET ?",  # noqa: S608 -- as above.
        (*values, wanted.limit, wanted.offset),
    )
    return tuple(job_of(row) for row in rows), count
