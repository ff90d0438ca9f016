"""The tasks that an executor's process has, and what is said of them when it dies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qonduit_service_kit.messages import ExecutorGranted, TaskFunction, TaskOutcome, TaskReply

if TYPE_CHECKING:
    from qonduit_worker.sandbox import Exit

_MIB = 1024**2
_SAID_BY_PROCESSES = frozenset({TaskOutcome.OK, TaskOutcome.ERROR, TaskOutcome.CANCELED, TaskOutcome.RETURNED})


@dataclass(frozen=True, slots=True, eq=False)
class InHand:
    """One attempt of a task that was given to the process."""

    task_id: str
    attempt: int
    number: int
    function: TaskFunction
    batch: int
    expected_s: float
    """How long its whole batch should run, 0 if that is not known."""


def returned(task: InHand) -> TaskReply:
    """Return the answer for a task that never began."""
    return TaskReply(task.task_id, task.attempt, TaskOutcome.RETURNED)


def death_of(task: InHand, exited: Exit, grant: ExecutorGranted, *, overtime: bool) -> TaskReply:
    """Return the answer for the task that ran when its process died."""
    name = task.function.name
    if overtime:
        text = f"task {name} ran longer than its timeout of {task.function.timeout_s:g} s and was ended"
        return TaskReply(task.task_id, task.attempt, TaskOutcome.TIMEOUT, text=text)
    if exited.oom_killed:
        text = (
            f"task {name} used more than its {grant.shape.mem_bytes / _MIB:,.0f} MiB of memory "
            f'(peak {exited.peak_mem_bytes / _MIB:,.0f} MiB); give its target a larger "mem"'
        )
        return TaskReply(task.task_id, task.attempt, TaskOutcome.OUT_OF_MEMORY, text=text)
    text = f"its executor ended with {how_it_ended(exited)}"
    return TaskReply(task.task_id, task.attempt, TaskOutcome.EXECUTOR_DIED, text=text)


def how_it_ended(exited: Exit) -> str:
    """Say how a process ended."""
    return f"signal {exited.signal}" if exited.signal else f"exit code {exited.exit_code}"


def outcome_of(word: object) -> TaskOutcome:
    """Read an outcome; the process is untrusted: only its agent may say that it died or was ended."""
    return TaskOutcome(word) if isinstance(word, str) and word in _SAID_BY_PROCESSES else TaskOutcome.ERROR
