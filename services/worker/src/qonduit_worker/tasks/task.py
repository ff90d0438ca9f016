"""One task of a job's attempt, and what is decided about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.messages import Stage, TaskRecord, TaskResult, TaskState

if TYPE_CHECKING:
    from qonduit_service_kit.messages import Shape, TaskFunction, TaskInput

_RECORD_TEXT: Final = 200
_STATES: Final = {
    "OK": TaskState.DONE,
    "ERROR": TaskState.ERROR,
    "OUT_OF_MEMORY": TaskState.OUT_OF_MEMORY,
    "TIMEOUT": TaskState.TIMEOUT,
    "EXECUTOR_DIED": TaskState.LOST,
    "UNSCHEDULABLE": TaskState.UNSCHEDULABLE,
    "CANCELED": TaskState.CANCELED,
}


@dataclass(frozen=True, slots=True)
class Owner:
    """The executor whose task submitted a task; a task of the driver has none."""

    worker_id: str
    lease_id: str
    parent_id: str


@dataclass(slots=True, eq=False)
class Task:
    """One unfinished task; the ledger alone changes it."""

    task_id: str
    function: TaskFunction
    call: bytes | None
    call_digest: str
    inputs: list[TaskInput]
    apart: tuple[str, ...] = ()
    """Digests of arguments that were stored by themselves for this call."""
    stage: Stage = Stage.NONE
    owner: Owner | None = None
    number: int = 0
    state: TaskState = TaskState.QUEUED
    attempt: int = 1
    missing: int = 0
    """Inputs that have no value yet."""
    batch: int = 0
    """The batch it is in while it lies in the queue; 0 elsewhere."""
    lease_id: str = ""
    worker_id: str = ""
    taken: int = 0
    """Where it stands in the order in which executors took tasks."""
    losses: int = 0
    queued_at: float = 0.0
    started_at: float = 0.0

    @property
    def shape(self) -> Shape:
        """What it needs."""
        return self.function.shape

    @property
    def has_stored_arguments(self) -> bool:
        """Whether some of what it is given was too large for a message."""
        return bool(self.call_digest or self.apart or any(given.value_digest for given in self.inputs))

    @property
    def size_bytes(self) -> int:
        """Bytes that it carries itself."""
        size = len(self.call) if self.call is not None else 0
        if self.inputs:
            size += sum(len(given.value) for given in self.inputs if given.value is not None)
        return size


@dataclass(frozen=True, slots=True)
class Finished:
    """Tell whoever submitted it: this task ended, for good."""

    task: Task
    result: TaskResult
    cpu_s: float = 0.0
    peak_mem_bytes: int = 0

    @property
    def state(self) -> TaskState:
        """The last state of the task."""
        return _STATES.get(self.result.outcome, TaskState.ERROR)


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Tell an executor that nobody wants this task of its lease any more."""

    task: Task
    lease_id: str
    worker_id: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Tell whoever submitted a task that one of its inputs ended before, and is not known here any more.

    The input's value was told before, on the same way: it is submitted again with the value.
    """

    task_id: str
    owner: Owner | None


Decision = Finished | Interrupt | Unknown


@dataclass(slots=True)
class Batch:
    """Tasks that travel in one message."""

    number: int
    tasks: list[Task]
    expected_s: float
    untaken: int = field(init=False)

    def __post_init__(self) -> None:
        """Count what is in the queue."""
        self.untaken = len(self.tasks)


def record(task: Task, finished: Finished | None = None, ended_at: float = 0.0) -> TaskRecord:
    """Return what is known of a task, at its end with how it went."""
    return TaskRecord(
        task_id=task.task_id,
        name=task.function.name,
        state=task.state if finished is None else finished.state,
        attempt=task.attempt,
        number=task.number,
        shape=task.function.shape,
        stage=task.stage,
        parent_id="" if task.owner is None else task.owner.parent_id,
        worker_id=task.worker_id,
        queued_at=task.queued_at,
        started_at=task.started_at,
        ended_at=ended_at,
        cpu_s=0.0 if finished is None else finished.cpu_s,
        peak_mem_bytes=0 if finished is None else finished.peak_mem_bytes,
        text="" if finished is None else finished.result.text.strip()[-_RECORD_TEXT:],
    )
