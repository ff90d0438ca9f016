"""The tasks that an executor's process has, and what is said of them when it dies."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qonduit_service_kit.messages import INLINE_LIMIT_BYTES, ExecutorGranted, TaskFunction, TaskOutcome, TaskReply

from qonduit_worker.blob_names import is_name

if TYPE_CHECKING:
    from qonduit_worker.sandbox import Exit

_MIB = 1024**2
FIELDS_OF_A_RESULT = 9
"""Task, attempt, outcome, value, its name, text, seconds that it ran, CPU seconds that its process burned, and seconds
that it waited for large values."""
_TEXT_CHARACTERS = 16 * 1024
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


def ended(task: InHand, row: list[Any], *, given_s: float, peak_mem_bytes: int) -> TaskReply:
    """Return the answer for a task whose process told its end (untrusted), `given_s` after it got the batch."""
    _task_id, _attempt, outcome, value, digest, text, run_s, burned_s, waited_s = row
    wall_s = _seconds(run_s, most=given_s)
    return TaskReply(
        task_id=task.task_id,
        attempt=task.attempt,
        outcome=_outcome_of(outcome),
        value=value if isinstance(value, bytes) and len(value) <= INLINE_LIMIT_BYTES else None,
        value_digest=digest if isinstance(digest, str) and is_name(digest) else "",
        text=str(text)[-_TEXT_CHARACTERS:],
        started_at=time.time() - wall_s,
        cpu_s=_seconds(burned_s, most=wall_s * (os.cpu_count() or 1)),
        wall_s=wall_s,
        peak_mem_bytes=peak_mem_bytes,
        waited_s=_seconds(waited_s, most=wall_s),
    )


def _seconds(told: object, *, most: float) -> float:
    """Return seconds that a process told, as far as they can be true."""
    return min(told, most) if isinstance(told, float) and told >= 0 else 0.0


def _outcome_of(word: object) -> TaskOutcome:
    """Read an outcome; the process is untrusted: only its agent may say that it died or was ended."""
    return TaskOutcome(word) if isinstance(word, str) and word in _SAID_BY_PROCESSES else TaskOutcome.ERROR
