"""Qonduit: Qiskit programs that mix classical and quantum work, on many machines.

For users: `ServerlessClient`, `QiskitFunction`, `Configuration`, `Job`, `extract`, and the exceptions of
`qonduit.exceptions`. For programs: `get_arguments`, `save_result`, `update_status`, `sync_files`, `get_logger`,
`distribute_task`, `get`, `put`, `wait`, `cancel`. Everything is loaded at its first use, so that `import qonduit` costs
nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qonduit.client import IBMServerlessClient, ServerlessClient
    from qonduit.configuration import Configuration
    from qonduit.exceptions import JobCanceledError, JobFailedError, QiskitServerlessException, QonduitError
    from qonduit.extracting import extract
    from qonduit.function_of_python import distribute_qiskit_function
    from qonduit.functions import QiskitFunction, RunnableQiskitFunction
    from qonduit.job import Job
    from qonduit.program.api import (
        get_arguments,
        get_logger,
        is_running_in_serverless,
        save_result,
        sync_files,
        update_status,
    )
    from qonduit.program.task_errors import (
        TaskCanceledError,
        TaskError,
        TaskLostError,
        TaskOutOfMemoryError,
        TaskTimeoutError,
        TaskUnschedulableError,
    )
    from qonduit.program.tasks import Target, cancel, distribute_task, get, get_refs_by_status, put, wait
    from qonduit.program.told_errors import ServerlessError, send_error

_HOMES = {
    "Configuration": "qonduit.configuration",
    "IBMServerlessClient": "qonduit.client",
    "Job": "qonduit.job",
    "JobCanceledError": "qonduit.exceptions",
    "JobFailedError": "qonduit.exceptions",
    "QiskitFunction": "qonduit.functions",
    "QiskitServerlessException": "qonduit.exceptions",
    "QonduitError": "qonduit.exceptions",
    "RunnableQiskitFunction": "qonduit.functions",
    "ServerlessClient": "qonduit.client",
    "ServerlessError": "qonduit.program.told_errors",
    "Target": "qonduit.program.tasks",
    "TaskCanceledError": "qonduit.program.task_errors",
    "TaskError": "qonduit.program.task_errors",
    "TaskLostError": "qonduit.program.task_errors",
    "TaskOutOfMemoryError": "qonduit.program.task_errors",
    "TaskTimeoutError": "qonduit.program.task_errors",
    "TaskUnschedulableError": "qonduit.program.task_errors",
    "cancel": "qonduit.program.tasks",
    "distribute_qiskit_function": "qonduit.function_of_python",
    "distribute_task": "qonduit.program.tasks",
    "extract": "qonduit.extracting",
    "get": "qonduit.program.tasks",
    "get_arguments": "qonduit.program.api",
    "get_logger": "qonduit.program.api",
    "get_refs_by_status": "qonduit.program.tasks",
    "is_running_in_serverless": "qonduit.program.api",
    "put": "qonduit.program.tasks",
    "save_result": "qonduit.program.api",
    "send_error": "qonduit.program.told_errors",
    "sync_files": "qonduit.program.api",
    "update_status": "qonduit.program.api",
    "wait": "qonduit.program.tasks",
}

__version__ = "0.1.0"
__all__ = [
    "Configuration",
    "IBMServerlessClient",
    "Job",
    "JobCanceledError",
    "JobFailedError",
    "QiskitFunction",
    "QiskitServerlessException",
    "QonduitError",
    "RunnableQiskitFunction",
    "ServerlessClient",
    "ServerlessError",
    "Target",
    "TaskCanceledError",
    "TaskError",
    "TaskLostError",
    "TaskOutOfMemoryError",
    "TaskTimeoutError",
    "TaskUnschedulableError",
    "cancel",
    "distribute_qiskit_function",
    "distribute_task",
    "extract",
    "get",
    "get_arguments",
    "get_logger",
    "get_refs_by_status",
    "is_running_in_serverless",
    "put",
    "save_result",
    "send_error",
    "sync_files",
    "update_status",
    "wait",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
