"""Lists the tasks of a job, page by page as they were kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
from qonduit_api.v1 import jobs_pb2
from qonduit_service_kit.errors import ApiError
from qonduit_service_kit.messages import TASKS_A_PAGE, TaskState
from qonduit_service_kit.task_pages import unpacked

from qonduit_gateway.api import convert, paging
from qonduit_gateway.database import task_rows
from qonduit_gateway.jobs.tasks import TaskTally, settled

if TYPE_CHECKING:
    from qonduit_service_kit.messages import TaskRecord
    from sqlalchemy import Connection

    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.jobs.model import Job

_PAGES_A_CALL = 50
"""Most pages that are decoded for one call: a rare name among many tasks is looked for in several calls."""
_STATES = {convert.task_state(state): state for state in TaskState}


@dataclass(slots=True)
class _Found:
    """What one call has found so far."""

    tally: TaskTally
    tasks: list[TaskRecord] = field(default_factory=list)
    seen: int = -1
    """Number of the last task that was looked at."""
    more: bool = False


async def answer(database: Database, job: Job, request: jobs_pb2.ListTasksRequest) -> jobs_pb2.ListTasksResponse:
    """Return a page of a job's tasks; ApiError says what is wrong with the request."""
    size, attempt = paging.page_size(request.page_size), _attempt_of(job, request)
    states = _states_of(request)
    after = paging.from_token(request.page_token, int, int)
    # A token is good for the attempt that it was made for: the newest may be another one meanwhile.
    attempt, after = (attempt, -1) if after is None else after
    over = attempt < job.progress.attempt or job.progress.state.terminal
    wanted = _Wanted(job.job_id, attempt, states, request.name, over=over)
    found = await database.read(lambda connection: _find(connection, wanted, after, size))
    tasks = paging.fitting([convert.task(record) for record in found.tasks])
    if len(tasks) < len(found.tasks):
        found.seen, found.more = found.tasks[len(tasks) - 1].number, True
    return jobs_pb2.ListTasksResponse(
        tasks=tasks,
        next_page_token=paging.to_token([attempt, found.seen]) if found.more else "",
        counts=[
            jobs_pb2.TaskStateCount(state=convert.task_state(state), count=found.tally.by_state[state])
            for state in TaskState
            if state in found.tally.by_state
        ],
        attempt=attempt,
    )


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is asked for."""

    job_id: str
    attempt: int
    states: frozenset[TaskState]
    name: str
    over: bool

    def takes(self, record: TaskRecord) -> bool:
        """Whether a task is among what is asked for."""
        return (not self.states or record.state in self.states) and self.name in {"", record.name}

    @property
    def kept_states(self) -> frozenset[TaskState]:
        """The states under which these may have been kept; none for all."""
        left = self.over and TaskState.CANCELED in self.states
        return self.states | {state for state in TaskState if left and not state.final}


def _find(connection: Connection, wanted: _Wanted, after: int, size: int) -> _Found:
    counts = task_rows.counts(connection, wanted.job_id, wanted.attempt)
    found = _Found(TaskTally(wanted.attempt, counts).settled(over=wanted.over), seen=after)
    filtered = wanted.states or wanted.name
    limit = _PAGES_A_CALL if filtered else size // TASKS_A_PAGE + 2
    pages = task_rows.pages(
        connection,
        wanted.job_id,
        wanted.attempt,
        first=(after + 1) // TASKS_A_PAGE,
        limit=limit,
        states=wanted.kept_states,
    )
    looked_at = 0
    for packed in pages:
        looked_at += 1
        for kept in unpacked(packed):
            record = settled(kept, over=wanted.over)
            if record.number > after and wanted.takes(record):
                if len(found.tasks) == size:
                    found.more = True
                    return found
                found.tasks.append(record)
            found.seen = max(found.seen, record.number)
    found.more = looked_at == limit
    return found


def _attempt_of(job: Job, request: jobs_pb2.ListTasksRequest) -> int:
    newest = job.progress.attempt
    if 0 <= request.attempt <= newest:
        return request.attempt or newest
    text = f"Job {job.job_id} has attempts 1 to {newest}, and none with the number {request.attempt}."
    raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ATTEMPT", text, violations={"attempt": text})


def _states_of(request: jobs_pb2.ListTasksRequest) -> frozenset[TaskState]:
    unknown = [value for value in request.states if value not in _STATES]
    if unknown:
        known = ", ".join(state.value for state in TaskState)
        text = f"There is no state of tasks with the number {unknown[0]}; there are {known}."
        raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_TASK_STATE", text, violations={"states": text})
    return frozenset(_STATES[value] for value in request.states)
