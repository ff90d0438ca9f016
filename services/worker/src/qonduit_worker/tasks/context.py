"""What the desks of the task layer must know of the attempt and the worker they serve."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from qonduit_service_kit.bus import Bus
    from qonduit_service_kit.messages import Shape, Stage, TaskBatch

Post: TypeAlias = Callable[[str, object], Coroutine[Any, Any, None]]
"""post(worker id, message): brings a message to a worker's agent; without RabbitMQ when that is this one.

Both die together, so a message between them needs no broker to survive. One for a worker that is gone is dropped.
"""


Give: TypeAlias = Callable[["TaskBatch"], Coroutine[Any, Any, None]]
"""give(batch): has an executor run a batch at once. It must be idle: nobody may have waited since that was seen."""
IdleExecutor: TypeAlias = Callable[[str, int, "Shape"], Give | None]
"""idle_executor(job id, attempt, shape): one of this worker that has nothing to do, if there is one.

What it is given needs no broker either; by the queue goes what must wait, or run elsewhere.
"""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an executor's side of the task layer works with."""

    worker_id: str
    bus: Bus
    post: Post


@dataclass(frozen=True, slots=True)
class DriverContext:
    """What the desk must know of the attempt it serves."""

    job_id: str
    attempt: int
    user: str
    worker_id: str
    lease_id: str
    limit: Shape
    storage_ticket: str
    artifact_digest: str
    environment: dict[str, str] = field(default_factory=dict)
    dependencies: tuple[str, ...] = ()
    qpu_budget_s: float | None = None
    user_qpu_budget_s: float | None = None
    files: tuple[str, ...] | None = None
    traceparent: str = ""
    space: str = ""
    provider_space: str = ""
    provider: str = ""
    """Whose function it is; empty for the user's own."""


@dataclass(frozen=True, slots=True)
class DriverCallbacks:
    """What the desk asks of the attempt it serves."""

    push: Callable[..., None]
    """push(name, **fields) to the program."""
    unsent: Callable[[], int]
    """How many bytes the program was told and has not read."""
    stage: Callable[[], Stage]
    """The stage the job is in now."""
    book: Callable[[Stage, float, int], None]
    """book(stage, cpu seconds, peak bytes) of one attempt of a task."""
    idle_executor: IdleExecutor
    keep: Callable[[bytes], Awaitable[str]]
    """Keep bytes where executors can get them; returns their digest."""
    release: Callable[[str], None]
    """Say that a stored call is of no use any more."""
    write_log: Callable[[bytes], Awaitable[None]]
    """Write lines that tasks printed to the job's log."""
    note_log: Callable[[str], Awaitable[None]]
    """Write a line of the system's own to it."""
