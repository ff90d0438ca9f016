"""What is known of a job's tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qonduit_service_kit.messages import TaskState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qonduit_service_kit.messages import TaskRecord

_LEFT = "Its job's attempt was over before it."


@dataclass(frozen=True, slots=True)
class TaskTally:
    """How many tasks of an attempt are in each state; states without one may be missing."""

    attempt: int
    by_state: Mapping[TaskState, int]

    def settled(self, *, over: bool) -> TaskTally:
        """Return the tally as users see it: of an attempt that is over, nothing goes on."""
        left = {state: count for state, count in self.by_state.items() if not state.final}
        if not over or not left:
            return self
        kept = {state: count for state, count in self.by_state.items() if state.final}
        canceled = kept.get(TaskState.CANCELED, 0) + sum(left.values())
        return replace(self, by_state={**kept, TaskState.CANCELED: canceled})


def settled(record: TaskRecord, *, over: bool) -> TaskRecord:
    """Return a task as users see it: the worker of an attempt that was lost could not tell what became of its tasks."""
    if not over or record.state.final:
        return record
    return replace(record, state=TaskState.CANCELED, text=_LEFT)
