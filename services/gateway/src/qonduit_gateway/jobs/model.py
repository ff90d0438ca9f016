"""The values a job consists of."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from qonduit_service_kit import spaces
from qonduit_service_kit.messages import Reason, Shape, Stage, ToldError

if TYPE_CHECKING:
    from collections.abc import Mapping


class JobState(StrEnum):
    """Where a job stands; the names are those of the API."""

    QUEUED = "QUEUED"
    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    CANCELING = "CANCELING"
    DONE = "DONE"
    ERROR = "ERROR"
    CANCELED = "CANCELED"

    @property
    def terminal(self) -> bool:
        """Whether the state is never left."""
        return self in {JobState.DONE, JobState.ERROR, JobState.CANCELED}

    @property
    def placed(self) -> bool:
        """Whether an attempt is on a worker, as far as is known."""
        return self in {JobState.INITIALIZING, JobState.RUNNING, JobState.CANCELING}


@dataclass(frozen=True, slots=True)
class Program:
    """The function version a job is pinned to, as far as running it needs."""

    version_id: int
    title: str
    version: str
    artifact_digest: str
    entrypoint: str
    dependencies: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    provider: str = ""
    """Whose function it is; empty for its user's own."""


@dataclass(frozen=True, slots=True)
class UserLimit:
    """The most that the tasks of one of a user's jobs may hold together, and that the user may use and keep.

    None where the server's limit holds.
    """

    cpu_millis: int | None = None
    mem_bytes: int | None = None
    gpus: int | None = None
    qpu_seconds: float | None = None
    """In any 28 days; 0 for no limit."""
    file_bytes: int | None = None
    """Of all files together; 0 for no limit."""
    active_jobs: int | None = None
    """Jobs that are not over; 0 for no limit."""
    running_jobs: int | None = None
    """Jobs that have a place on a worker; 0 for no limit."""
    time_limit_seconds: float | None = None
    """Longest time limit of a job."""

    def over(self, default: Shape) -> Shape:
        """Return what holds, given the server's limit."""
        return Shape(
            default.cpu_millis if self.cpu_millis is None else self.cpu_millis,
            default.mem_bytes if self.mem_bytes is None else self.mem_bytes,
            default.gpus if self.gpus is None else self.gpus,
        )

    def qpu_seconds_over(self, default: float) -> float:
        """Return the QPU seconds in 28 days that hold, given the server's; 0 for no limit."""
        return default if self.qpu_seconds is None else self.qpu_seconds

    def file_bytes_over(self, default: int) -> int:
        """Return the bytes that all files together may have, given the server's; 0 for no limit."""
        return default if self.file_bytes is None else self.file_bytes

    def active_jobs_over(self, default: int) -> int:
        """Return how many jobs may not be over at a time, given the server's; 0 for no limit."""
        return default if self.active_jobs is None else self.active_jobs

    def running_jobs_over(self, default: int) -> int:
        """Return how many jobs may have a place at a time, given the server's; 0 for no limit."""
        return default if self.running_jobs is None else self.running_jobs

    def time_limit_within(self, most: float) -> float:
        """Return the longest time limit of a job, which is never longer than the server's."""
        return most if self.time_limit_seconds is None else min(most, self.time_limit_seconds)


@dataclass(frozen=True, slots=True)
class Submission:
    """What was asked for; it never changes."""

    job_id: str
    owner: str
    program: Program
    arguments_digest: str
    shape: Shape
    time_limit_s: float
    priority: int
    created_at: float
    limit: UserLimit = field(default_factory=UserLimit)
    """The owner's, as it is when the job is read: a new one holds from the next attempt on."""
    qpu_budget_s: float | None = None
    """Most QPU seconds that the job may be charged; None for no limit."""
    files: tuple[str, ...] | None = None
    """Names of the owner's files that it finds in /data; None for all of them."""
    traceparent: str = ""
    """Where in a trace it was submitted."""
    trial: bool = False
    """Whether its owner may only try the function."""

    @property
    def space(self) -> str:
        """The space whose files its program finds in /data, and changes."""
        return space_of(self.owner, self.program.provider, self.program.title)


def space_of(user: str, provider: str, title: str) -> str:
    """Return the space of a user's files for a function; those of the user's own functions share one."""
    return spaces.of_user_at(provider, title, user) if provider else spaces.of_user(user)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job got; changed by transitions only."""

    state: JobState = JobState.QUEUED
    stage: Stage = Stage.NONE
    reason: Reason = Reason.NONE
    error_text: str = ""
    attempt: int = 1
    revision: int = 1
    last_sequence: int = -1
    """Highest sequence of this attempt that moved the job; -1 before the first."""
    worker_id: str = ""
    queued_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    cancel_requested_at: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    result_digest: str = ""
    result_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """A job."""

    submission: Submission
    progress: Progress

    @property
    def job_id(self) -> str:
        """Its id."""
        return self.submission.job_id


class Source(StrEnum):
    """Who numbered an entry of a job's history."""

    GATEWAY = "gateway"
    """Numbered by the job's revision."""
    WORKER = "worker"
    """Numbered by the attempt's own sequence."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One change of a job, as kept in its history."""

    attempt: int
    source: Source
    sequence: int
    after_sequence: int
    """Place among the worker's events of the attempt: its own sequence, or the last one before it."""
    at: float
    status: str
    text: str = ""
    error: ToldError | None = None
    """What the program told its users then."""


def status_text(state: JobState, stage: Stage) -> str:
    """Return the status as users know it: "QUEUED", "RUNNING: MAPPING", "DONE"."""
    if state is JobState.RUNNING and stage is not Stage.NONE:
        return f"RUNNING: {stage.value}"
    return state.value
