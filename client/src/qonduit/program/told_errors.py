"""Errors that a program tells its users, who may never see its traceback: a code, a message, and more as JSON."""

from __future__ import annotations

import json
import traceback
from typing import Any, Final

from qonduit.program.api import get_logger
from qonduit.program.channel import agent, in_program
from qonduit.program.devices import in_executor

_NAME: Final = "ServerlessError"


class ServerlessError(Exception):
    """An error that a program raises for its users: its code and message are what they are told."""

    def __init__(self, code: str, message: str, details: Any = None) -> None:
        super().__init__(code, message, details)  # What a task raises is made again from these.
        self.code = code
        self.message = message
        self.details = details

    def __str__(self) -> str:
        behind = f"\n{self.details}" if self.details else ""
        return f"[{self.code}] {self.message}{behind}"


def send_error(code: str | int, message: str, exception: str, args: Any = None) -> bool:
    """Tell the job's users an error, and go on; each one is in the job's timeline.

    Code and exception have at most 200 characters, message and args (as JSON) at most 4,000; what is longer is cut, and
    args that are nested more than 50 deep are told as text. A program tells at most 100.

    Args:
        code: What their programs may tell it by.
        message: What happened and what to do, for people.
        exception: Name of the exception's class.
        args: More of it, such as JSON holds.

    Returns:
        True when it was told; False outside a job, in a task, and after the first 100: then it is logged.

    Raises:
        TypeError: JSON can't hold `args`.
    """
    told = _fields(code, message, exception, json.dumps(args) if args else "")
    if in_program() and not in_executor() and agent().call("send_error", **told):
        return True
    get_logger().error("Error %s: %s\n%s", code, message, args)
    return False


def told_by(error: BaseException, *, any_kind: bool = False) -> dict[str, str]:
    """Return what an exception that ends a program tells its users; nothing unless it was raised for them.

    Args:
        error: The exception; a ServerlessError may be that of an installed client too.
        any_kind: Whether each exception tells something, as those do that leave a provider's `Runner`.
    """
    meant = any(kind.__name__ == _NAME for kind in type(error).__mro__) and hasattr(error, "code")
    if not meant and not any_kind:
        return {}
    last_line = "".join(traceback.format_exception_only(error))
    details = getattr(error, "details", None)
    return _fields(
        getattr(error, "code", 1),
        getattr(error, "message", last_line),
        type(error).__name__,
        json.dumps(details, default=str) if details else "",
    )


def _fields(code: object, message: object, exception: object, args: str) -> dict[str, str]:
    given = {"code": code, "message": message, "exception": exception, "args": args}
    # Half of a surrogate pair, as in a name of a file, is in no text that travels.
    return {name: str(value).encode(errors="replace").decode() for name, value in given.items()}
