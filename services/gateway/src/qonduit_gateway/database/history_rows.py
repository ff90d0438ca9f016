"""Histories and usage of jobs in the database."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from qonduit_service_kit.messages import Stage, StageUsage, ToldError
from sqlalchemy import bindparam, delete, func, select

from qonduit_gateway.database.rows import inserted, keep_newest
from qonduit_gateway.database.schema import job_events, job_usage
from qonduit_gateway.jobs.model import Entry, Source

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

_KNOWN = select(job_events.c.event_id).where(
    job_events.c.job_id == bindparam("wanted_job"),
    job_events.c.attempt == bindparam("wanted_attempt"),
    job_events.c.source == Source.WORKER.value,
    job_events.c.sequence == bindparam("wanted_sequence"),
)

_USAGE = (
    select(
        job_usage.c.stage,
        func.sum(job_usage.c.wall_s).label("wall_s"),
        func.sum(job_usage.c.cpu_s).label("cpu_s"),
        func.max(job_usage.c.peak_mem_bytes).label("peak"),
    )
    .where(job_usage.c.job_id == bindparam("wanted_job"))
    .group_by(job_usage.c.stage)
    .order_by(func.min(job_usage.c.sequence), job_usage.c.stage)
)


def is_known(connection: Connection, job_id: str, attempt: int, sequence: int) -> bool:
    """Tell whether a worker's event is in the history already: it is a duplicate."""
    event = {"wanted_job": job_id, "wanted_attempt": attempt, "wanted_sequence": sequence}
    return connection.execute(_KNOWN, event).first() is not None


def add(connection: Connection, job_id: str, entry: Entry) -> bool:
    """Add an entry; False when it is there already."""
    return inserted(
        connection,
        job_events,
        job_id=job_id,
        attempt=entry.attempt,
        source=entry.source.value,
        sequence=entry.sequence,
        after_sequence=entry.after_sequence,
        at=entry.at,
        status=entry.status,
        text=entry.text,
        error=None if entry.error is None else asdict(entry.error),
    )


def history(connection: Connection, job_id: str) -> list[Entry]:
    """Return a job's entries in order: by attempt, then as the worker numbered them, whenever they came in."""
    order = (
        job_events.c.attempt,
        job_events.c.after_sequence,
        # What this service adds comes after the worker's event that it follows.
        (job_events.c.source == Source.GATEWAY.value),
        job_events.c.event_id,
    )
    rows = connection.execute(select(job_events).where(job_events.c.job_id == job_id).order_by(*order))
    return [
        Entry(
            row.attempt,
            Source(row.source),
            row.sequence,
            row.after_sequence,
            row.at,
            row.status,
            row.text,
            None if row.error is None else ToldError(**row.error),
        )
        for row in rows
    ]


def record_usage(
    connection: Connection, job_id: str, attempt: int, sequence: int, totals: Iterable[StageUsage]
) -> None:
    """Keep an attempt's totals unless newer ones are there; they are absolute, so a repeat changes nothing."""
    rows = (
        {
            "job_id": job_id,
            "attempt": attempt,
            "stage": total.stage.value,
            "sequence": sequence,
            "wall_s": total.wall_s,
            "cpu_s": total.cpu_s,
            "qpu_s": total.qpu_s,
            "peak_mem_bytes": total.peak_mem_bytes,
        }
        for total in totals
    )
    keep_newest(connection, job_usage, rows, by="sequence")


def usage(connection: Connection, job_id: str) -> list[StageUsage]:
    """Return each stage's totals summed over the attempts, with the highest of the memory peaks.

    Without QPU seconds: those are charged by the QPU broker and not by workers.
    """
    return [
        StageUsage(Stage(row.stage), row.wall_s, row.cpu_s, peak_mem_bytes=row.peak)
        for row in connection.execute(_USAGE, {"wanted_job": job_id})
    ]


def forget(connection: Connection, job_id: str) -> None:
    """Delete a job's history and what it used."""
    for table in (job_events, job_usage):
        connection.execute(delete(table).where(table.c.job_id == job_id))
