"""The task layer: the driver's side (`TaskDesk`) and the executor's side (`ExecutorDesk`)."""

from qonduit_worker.tasks.driver_side import DriverContext, TaskDesk
from qonduit_worker.tasks.executor_side import ExecutorDesk, ExecutorProcess

__all__ = ["DriverContext", "ExecutorDesk", "ExecutorProcess", "TaskDesk"]
