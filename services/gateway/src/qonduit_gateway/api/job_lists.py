"""Lists jobs in pages: their user's, or those of a provider's function."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qonduit_gateway.api import convert, paging
from qonduit_gateway.database import job_rows, task_rows
from qonduit_gateway.jobs.tasks import TaskTally

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qonduit_api.v1 import jobs_pb2, providers_pb2
    from sqlalchemy import Connection

    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.database.task_rows import StateCounts
    from qonduit_gateway.jobs.model import Job


@dataclass(frozen=True, slots=True)
class JobPage:
    """A page of jobs."""

    jobs: Sequence[jobs_pb2.Job] = ()
    next_page_token: str = ""
    total: int = 0


async def read(
    database: Database,
    request: jobs_pb2.ListJobsRequest | providers_pb2.ListProviderJobsRequest,
    wanted: job_rows.Wanted,
    message: Callable[[Job, TaskTally | None], jobs_pb2.Job],
) -> JobPage:
    """Return those of the wanted jobs that a request asks for, newest first; ApiError when it can't be meant."""
    size = paging.page_size(request.page_size)
    paging.check_skip(request.skip)
    before = paging.from_token(request.page_token, float, str)
    named = [convert.state_from(value) for value in request.states]
    states = tuple(state for state in named if state is not None)
    if named and not states:
        return JobPage()
    after = request.created_after.ToNanoseconds() / 1e9 if request.HasField("created_after") else None
    asked = replace(wanted, states=states, created_after=after)

    def look(connection: Connection) -> tuple[list[Job], dict[str, StateCounts], int]:
        jobs = job_rows.page(connection, asked, size=size, before=before, skip=request.skip)
        total = job_rows.count(connection, asked) if request.count else 0
        return jobs, task_rows.present_counts(connection, [job.job_id for job in jobs]), total

    jobs, counts, total = await database.read(look)
    messages = paging.fitting([message(job, tally(job, counts)) for job in jobs])
    more = len(jobs) == size or len(messages) < len(jobs)
    last = jobs[len(messages) - 1] if more else None
    token = "" if last is None else paging.to_token([last.submission.created_at, last.job_id])
    return JobPage(messages, token, total)


def tally(job: Job, counts: Mapping[str, StateCounts]) -> TaskTally | None:
    """Return what is known of a job's tasks."""
    return TaskTally(job.progress.attempt, counts[job.job_id]) if job.job_id in counts else None
