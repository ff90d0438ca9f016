"""Jobs in the database."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from qonduit_service_kit.messages import Reason, Shape, Stage
from sqlalchemy import and_, bindparam, func, or_, select, update

from qonduit_gateway.database.schema import function_versions, jobs, users
from qonduit_gateway.database.user_rows import limit_of
from qonduit_gateway.jobs.model import Job, JobState, Program, Progress, Submission

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection, Row, Select

_PLACED = [state.value for state in JobState if state.placed]

_WITH_PROGRAM = select(
    jobs,
    function_versions.c.version,
    function_versions.c.artifact_digest,
    function_versions.c.entrypoint,
    function_versions.c.dependencies,
    function_versions.c.environment,
    users.c.limit_cpu_millis,
    users.c.limit_mem_bytes,
    users.c.limit_gpus,
    users.c.limit_qpu_seconds,
    users.c.limit_file_bytes,
    users.c.limit_active_jobs,
    users.c.limit_running_jobs,
    users.c.limit_time_limit_seconds,
).select_from(jobs.join(function_versions).join(users, users.c.name == jobs.c.owner))
_THERE = jobs.c.deleted_at.is_(None)
_GET = _WITH_PROGRAM.where(jobs.c.job_id == bindparam("wanted"), _THERE)
_COUNT_ACTIVE = (
    select(func.count()).select_from(jobs).where(jobs.c.owner == bindparam("wanted"), jobs.c.ended_at.is_(None))
)
_INSERT = jobs.insert()
_GET_LOCKED = _GET.with_for_update(of=jobs)
_TOLD_COLUMNS = ("tell_again_at", "told_count")
_PROGRESS_COLUMNS = tuple(each.name for each in fields(Progress))
_UNCHANGED = update(jobs).where(
    jobs.c.job_id == bindparam("changed_job"), jobs.c.revision == bindparam("changed_revision")
)
_SAVE = _UNCHANGED.values({name: bindparam(name) for name in _PROGRESS_COLUMNS})
_SAVE_TOLD = _UNCHANGED.values({name: bindparam(name) for name in (*_PROGRESS_COLUMNS, *_TOLD_COLUMNS)})


def insert(connection: Connection, job: Job, *, tell_again_at: float) -> None:
    """Insert a new job, of which the scheduler is told in the same transaction."""
    submission = job.submission
    connection.execute(
        _INSERT,
        {
            "job_id": submission.job_id,
            "owner": submission.owner,
            "version_id": submission.program.version_id,
            "function_title": submission.program.title,
            "arguments_digest": submission.arguments_digest,
            "cpu_millis": submission.shape.cpu_millis,
            "mem_bytes": submission.shape.mem_bytes,
            "gpus": submission.shape.gpus,
            "time_limit_s": submission.time_limit_s,
            "priority": submission.priority,
            "created_at": submission.created_at,
            "qpu_budget_s": submission.qpu_budget_s,
            "files": None if submission.files is None else list(submission.files),
            "traceparent": submission.traceparent,
            "provider": submission.program.provider,
            "trial": submission.trial,
            "tell_again_at": tell_again_at,
            "told_count": 1,
            **_columns(job.progress),
        },
    )


def get(connection: Connection, job_id: str, *, lock: bool = False) -> Job | None:
    """Return a job, or None; with `lock`, nobody else changes it before this transaction ends."""
    row = connection.execute(_GET_LOCKED if lock else _GET, {"wanted": job_id}).one_or_none()
    return None if row is None else _job(row)


def save_progress(connection: Connection, job: Job, before: Progress, *, tell_again_at: float) -> None:
    """Write a job's progress; RuntimeError when it is not as `before` any more, which `get(lock=True)` rules out."""
    values = _columns(job.progress)
    if job.progress.state is not before.state or job.progress.attempt != before.attempt:
        values |= {"tell_again_at": tell_again_at, "told_count": 1}
    values |= {"changed_job": job.job_id, "changed_revision": before.revision}
    changed = connection.execute(_SAVE_TOLD if "told_count" in values else _SAVE, values).rowcount
    if changed != 1:
        raise RuntimeError(f"job {job.job_id} was changed by somebody else, though it was locked")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which jobs are asked for."""

    owner: str | None = None
    """Whose; None for everybody's."""
    title: str = ""
    """Of the function; empty for all."""
    provider: str = ""
    """Whose function it is, where it has a title; empty for the owner's own."""
    of_providers: bool | None = None
    """Whether of providers' functions, or of own ones, alone; None for both."""
    states: tuple[JobState, ...] = ()
    created_after: float | None = None

    def of(self, query: Select[Any]) -> Select[Any]:
        """Return a query of jobs, for these alone."""
        query = query.where(_THERE)
        if self.owner is not None:
            query = query.where(jobs.c.owner == self.owner)
        if self.title:
            query = query.where(jobs.c.provider == self.provider, jobs.c.function_title == self.title)
        if self.of_providers is not None:
            query = query.where(jobs.c.provider != "" if self.of_providers else jobs.c.provider == "")
        if self.states:
            query = query.where(jobs.c.state.in_([state.value for state in self.states]))
        if self.created_after is not None:
            query = query.where(jobs.c.created_at >= self.created_after)
        return query


def page(
    connection: Connection, wanted: Wanted, *, size: int, before: tuple[float, str] | None = None, skip: int = 0
) -> list[Job]:
    """Return jobs, newest first, after the (created_at, job_id) where the last page ended, and after some more."""
    query = wanted.of(_WITH_PROGRAM)
    if before is not None:
        created_at, job_id = before
        query = query.where(
            or_(jobs.c.created_at < created_at, and_(jobs.c.created_at == created_at, jobs.c.job_id < job_id))
        )
    query = query.order_by(jobs.c.created_at.desc(), jobs.c.job_id.desc()).limit(size).offset(skip)
    return [_job(row) for row in connection.execute(query)]


def count(connection: Connection, wanted: Wanted) -> int:
    """Return how many jobs there are."""
    return int(connection.execute(wanted.of(select(func.count()).select_from(jobs))).scalar_one())


def count_active(connection: Connection, owner: str) -> int:
    """Return how many of a user's jobs are not over; those that are over are not looked at."""
    return int(connection.execute(_COUNT_ACTIVE, {"wanted": owner}).scalar_one())


def active_of(connection: Connection, owner: str) -> list[str]:
    """Return which of a user's jobs are not over, oldest first."""
    query = select(jobs.c.job_id).where(jobs.c.owner == owner, jobs.c.ended_at.is_(None))
    return list(connection.execute(query.order_by(jobs.c.created_at, jobs.c.job_id)).scalars())


def active(connection: Connection) -> list[Job]:
    """Return every job that is not over, oldest first."""
    query = _WITH_PROGRAM.where(jobs.c.state.in_([JobState.QUEUED.value, *_PLACED]))
    return [_job(row) for row in connection.execute(query.order_by(jobs.c.created_at, jobs.c.job_id))]


def due(connection: Connection, state: JobState, now: float, *, limit: int) -> list[tuple[Job, int]]:
    """Return jobs in a state that are to be told about again, with how often that was done; most overdue first."""
    query = _WITH_PROGRAM.where(jobs.c.state == state.value, jobs.c.tell_again_at <= now)
    rows = connection.execute(query.order_by(jobs.c.tell_again_at).limit(limit))
    return [(_job(row), row.told_count) for row in rows]


def mark_told(connection: Connection, job_id: str, *, tell_again_at: float) -> None:
    """Note that scheduler or worker were told about a job once more."""
    query = update(jobs).where(jobs.c.job_id == job_id)
    connection.execute(query.values(tell_again_at=tell_again_at, told_count=jobs.c.told_count + 1))


def oldest_active(connection: Connection) -> float | None:
    """Return when the oldest job that is not over was accepted; None when there is none."""
    query = select(func.min(jobs.c.created_at)).where(jobs.c.state.in_([JobState.QUEUED.value, *_PLACED]))
    oldest: float | None = connection.execute(query).scalar_one()
    return oldest


def ended(connection: Connection, *, before: float, limit: int) -> list[str]:
    """Return jobs that were over before a time, oldest end first."""
    query = select(jobs.c.job_id).where(jobs.c.ended_at < before, _THERE)
    return list(connection.execute(query.order_by(jobs.c.ended_at).limit(limit)).scalars())


def bury(connection: Connection, job_id: str, *, at: float) -> None:
    """Keep of a job only what bills refer to: nobody finds it any more."""
    connection.execute(update(jobs).where(jobs.c.job_id == job_id).values(deleted_at=at, error_text="", files=None))


def count_by_state(connection: Connection) -> dict[JobState, int]:
    """Count the jobs in each state; states without one are missing."""
    rows = connection.execute(select(jobs.c.state, func.count()).where(_THERE).group_by(jobs.c.state)).all()
    return {JobState(state): number for state, number in rows}


def _columns(progress: Progress) -> dict[str, Any]:
    values = {name: getattr(progress, name) for name in _PROGRESS_COLUMNS}
    return values | {name: values[name].value for name in ("state", "stage", "reason")}


def _job(row: Row[Any]) -> Job:
    return Job(_submission(row), _progress(row))


def _submission(row: Row[Any]) -> Submission:
    program = Program(
        version_id=row.version_id,
        title=row.function_title,
        version=row.version,
        artifact_digest=row.artifact_digest,
        entrypoint=row.entrypoint,
        dependencies=tuple(row.dependencies),
        environment=row.environment,
        provider=row.provider,
    )
    return Submission(
        job_id=row.job_id,
        owner=row.owner,
        program=program,
        arguments_digest=row.arguments_digest,
        shape=Shape(row.cpu_millis, row.mem_bytes, row.gpus),
        time_limit_s=row.time_limit_s,
        priority=row.priority,
        created_at=row.created_at,
        limit=limit_of(row),
        qpu_budget_s=row.qpu_budget_s,
        files=None if row.files is None else tuple(row.files),
        traceparent=row.traceparent,
        trial=row.trial,
    )


def _progress(row: Row[Any]) -> Progress:
    return Progress(
        state=JobState(row.state),
        stage=Stage(row.stage),
        reason=Reason(row.reason),
        error_text=row.error_text,
        attempt=row.attempt,
        revision=row.revision,
        last_sequence=row.last_sequence,
        worker_id=row.worker_id,
        queued_at=row.queued_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        cancel_requested_at=row.cancel_requested_at,
        exit_code=row.exit_code,
        signal=row.signal,
        result_digest=row.result_digest,
        result_bytes=row.result_bytes,
    )


def owned(connection: Connection, owner: str, job_ids: Collection[str]) -> set[str]:
    """Return those of some jobs that belong to a user."""
    query = select(jobs.c.job_id).where(jobs.c.owner == owner, jobs.c.job_id.in_(job_ids), _THERE)
    return set(connection.execute(query).scalars())
