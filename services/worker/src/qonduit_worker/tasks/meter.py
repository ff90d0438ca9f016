"""Counts tasks as they end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qonduit_service_kit.messages import TaskState

from qonduit_worker import metrics

if TYPE_CHECKING:
    from qonduit_service_kit.messages import TaskRecord

_FINISHED: Final = {state: metrics.TASKS_FINISHED.labels(state.value) for state in TaskState}
"""Looked up once: thousands of tasks end in a second."""


def count(ended: TaskRecord, losses: int) -> None:
    """Count a task that ended, which lost so many executors on its way; the seconds only of one that was started."""
    _FINISHED[ended.state].inc()
    if losses:
        metrics.TASK_LOSSES.inc(losses)
    if ended.started_at:
        metrics.TASK_QUEUE_SECONDS.observe(max(0.0, ended.started_at - ended.queued_at))
        metrics.TASK_RUN_SECONDS.observe(max(0.0, ended.ended_at - ended.started_at))
