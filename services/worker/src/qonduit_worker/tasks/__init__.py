"""The task layer: the driver's side (`TaskDesk`) and the executor's side (`ExecutorDesk`)."""

from qonduit_worker.tasks.context import DriverCallbacks, DriverContext, Give, IdleExecutor, Post, Surroundings
from qonduit_worker.tasks.driver_side import TaskDesk
from qonduit_worker.tasks.executor_process import ExecutorProcess
from qonduit_worker.tasks.executor_side import ExecutorDesk

__all__ = [
    "DriverCallbacks",
    "DriverContext",
    "ExecutorDesk",
    "ExecutorProcess",
    "Give",
    "IdleExecutor",
    "Post",
    "Surroundings",
    "TaskDesk",
]
