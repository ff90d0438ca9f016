"""Pages of tasks in the database: one row for some hundred tasks, kept as the worker packed them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qonduit_service_kit.messages import TaskState
from sqlalchemy import bindparam, delete, func, or_, select

from qonduit_gateway.database.rows import keep_newest
from qonduit_gateway.database.schema import jobs, task_pages

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from qonduit_service_kit.messages import PackedTasksPage
    from sqlalchemy import Connection

    StateCounts = Mapping[TaskState, int]

_COUNTERS = {state: f"{state.value.lower()}_count" for state in TaskState}
_SUMS = [func.sum(task_pages.c[name]).label(name) for name in _COUNTERS.values()]
_ATTEMPTS = select(jobs.c.job_id, jobs.c.attempt).where(
    jobs.c.job_id.in_(bindparam("wanted", expanding=True)), jobs.c.deleted_at.is_(None)
)
_PRESENT = (
    select(jobs.c.job_id, *_SUMS)
    .join_from(jobs, task_pages, (task_pages.c.job_id == jobs.c.job_id) & (task_pages.c.attempt == jobs.c.attempt))
    .where(jobs.c.job_id.in_(bindparam("wanted", expanding=True)))
    .group_by(jobs.c.job_id)
)
_OF_ATTEMPT = select(*_SUMS).where(
    task_pages.c.job_id == bindparam("wanted"), task_pages.c.attempt == bindparam("wanted_attempt")
)


def store(connection: Connection, pages: Iterable[PackedTasksPage]) -> dict[str, int]:
    """Keep pages unless newer ones are there; return the present attempt of each of their jobs.

    Pages of an attempt that is over are kept too: what was done in it stays known. Those of jobs and attempts
    that aren't in the book (it was set back to an older one) are dropped.
    """
    # In one order everywhere, so that two gateways can't lock each other's rows.
    pages = sorted(pages, key=lambda page: (page.job_id, page.job_attempt, page.page))
    wanted = {page.job_id for page in pages}
    attempts = {row.job_id: row.attempt for row in connection.execute(_ATTEMPTS, {"wanted": list(wanted)})}
    rows = (_columns(page) for page in pages if page.job_attempt <= attempts.get(page.job_id, 0))
    keep_newest(connection, task_pages, rows, by="revision")
    return attempts


def present_counts(connection: Connection, job_ids: Collection[str]) -> dict[str, StateCounts]:
    """Count the tasks of some jobs' present attempts by state; jobs without tasks are missing."""
    if not job_ids:
        return {}
    return {row.job_id: _counts(row) for row in connection.execute(_PRESENT, {"wanted": list(job_ids)})}


def counts(connection: Connection, job_id: str, attempt: int) -> StateCounts:
    """Count the tasks of an attempt by state; states without one are missing."""
    return _counts(connection.execute(_OF_ATTEMPT, {"wanted": job_id, "wanted_attempt": attempt}).one())


def pages(
    connection: Connection, job_id: str, attempt: int, *, first: int, limit: int, states: Collection[TaskState] = ()
) -> Iterator[bytes]:
    """Yield packed tasks from a page on, in order; only pages with a task in one of the states, if any."""
    query = select(task_pages.c.packed).where(
        task_pages.c.job_id == job_id, task_pages.c.attempt == attempt, task_pages.c.page >= first
    )
    if states:
        query = query.where(or_(*(task_pages.c[_COUNTERS[state]] > 0 for state in states)))
    yield from connection.execute(query.order_by(task_pages.c.page).limit(limit)).scalars()


def _counts(row: Any) -> StateCounts:
    found = ((state, getattr(row, name)) for state, name in _COUNTERS.items())
    return {state: int(number) for state, number in found if number}


def _columns(page: PackedTasksPage) -> dict[str, Any]:
    return {
        "job_id": page.job_id,
        "attempt": page.job_attempt,
        "page": page.page,
        "revision": page.revision,
        "packed": page.packed,
        **{name: page.counts.get(state.value, 0) for state, name in _COUNTERS.items()},
    }


def forget(connection: Connection, job_id: str) -> None:
    """Delete what is known of a job's tasks."""
    connection.execute(delete(task_pages).where(task_pages.c.job_id == job_id))
