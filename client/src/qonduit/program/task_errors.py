"""How a task can fail other than by an exception of its own function.

TaskError
├── TaskOutOfMemoryError     it used more memory than its target asked for
├── TaskTimeoutError         it ran longer than its timeout
├── TaskLostError            its executor died again and again
├── TaskCanceledError        it was canceled
└── TaskUnschedulableError   no worker could ever hold its target
"""

from __future__ import annotations


class TaskError(Exception):
    """A task failed in a way that is not an exception of its function."""


class TaskOutOfMemoryError(TaskError):
    """A task used more memory than its target asked for."""


class TaskTimeoutError(TaskError):
    """A task ran longer than its timeout."""


class TaskLostError(TaskError):
    """A task's executor died again and again."""


class TaskCanceledError(TaskError):
    """A task was canceled."""


class TaskUnschedulableError(TaskError):
    """No worker could ever hold a task's target."""


BY_OUTCOME: dict[str, type[TaskError]] = {
    "OUT_OF_MEMORY": TaskOutOfMemoryError,
    "TIMEOUT": TaskTimeoutError,
    "EXECUTOR_DIED": TaskLostError,
    "CANCELED": TaskCanceledError,
    "UNSCHEDULABLE": TaskUnschedulableError,
}
