"""What a program sees of Qonduit while it runs: arguments, results, stages, tasks.

Everything here is preloaded into interpreters from which programs are forked, so that it imports neither gRPC
nor anything that starts a thread.
"""

from qonduit.program.api import (
    get_arguments,
    get_logger,
    is_running_in_serverless,
    save_result,
    update_status,
)

__all__ = ["get_arguments", "get_logger", "is_running_in_serverless", "save_result", "update_status"]
