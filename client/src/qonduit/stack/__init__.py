"""The private stack that `qonduit up` runs on one machine."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qonduit.stack.commands import log_lines, run_in_foreground, start_in_background, status, stop
    from qonduit.stack.layout import layout_of
    from qonduit.stack.profiles import users_stack
    from qonduit.stack.rabbitmq_home import find_rabbitmq
    from qonduit.stack.services import check_installed, wanted_services
    from qonduit.stack.supervisor import Options

_HOMES = {
    "Options": "supervisor",
    "check_installed": "services",
    "find_rabbitmq": "rabbitmq_home",
    "layout_of": "layout",
    "log_lines": "commands",
    "run_in_foreground": "commands",
    "wanted_services": "services",
    "start_in_background": "commands",
    "status": "commands",
    "stop": "commands",
    "users_stack": "profiles",
}

__all__ = [
    "Options",
    "check_installed",
    "find_rabbitmq",
    "layout_of",
    "log_lines",
    "run_in_foreground",
    "start_in_background",
    "status",
    "stop",
    "users_stack",
    "wanted_services",
]


def __getattr__(name: str) -> Any:
    # The command line imports this package for every command; few commands need what is in it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
