"""Counts tasks as they end, and tells them as spans of their job's trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qonduit_service_kit import tracing
from qonduit_service_kit.messages import TaskState

from qonduit_worker import metrics

if TYPE_CHECKING:
    from qonduit_service_kit.messages import TaskRecord

MOST_SPANS: Final = 1000
"""Of an attempt's first tasks: a trace of a hundred thousand would help nobody."""
_FINISHED: Final = {state: metrics.TASKS_FINISHED.labels(state.value) for state in TaskState}
"""Looked up once: thousands of tasks end in a second."""


def count(ended: TaskRecord, losses: int, place: str = "") -> None:
    """Count a task that ended, which lost so many executors on its way; the seconds only of one that was started.

    `place` is that of its job's attempt in a trace, if it is in one.
    """
    _FINISHED[ended.state].inc()
    if losses:
        metrics.TASK_LOSSES.inc(losses)
    if ended.started_at:
        metrics.TASK_QUEUE_SECONDS.observe(max(0.0, ended.started_at - ended.queued_at))
        metrics.TASK_RUN_SECONDS.observe(max(0.0, ended.ended_at - ended.started_at))
    if place and ended.number < MOST_SPANS:
        _tell(ended, place)


def _tell(ended: TaskRecord, place: str) -> None:
    tracing.tell(
        f"task {ended.name}",
        ended.queued_at,
        ended.ended_at,
        parent=place,
        of=ended.task_id,
        error="" if ended.state is TaskState.DONE else ended.text or ended.state.value,
        task_id=ended.task_id,
        number=ended.number,
        state=ended.state.value,
        attempt=ended.attempt,
        stage=ended.stage.value,
        worker_id=ended.worker_id,
        cpu_seconds=ended.cpu_s,
        peak_mem_bytes=ended.peak_mem_bytes,
    )
    if ended.started_at:
        under = tracing.child_of(place, ended.task_id)
        tracing.tell("running", ended.started_at, ended.ended_at, parent=under, worker_id=ended.worker_id)
