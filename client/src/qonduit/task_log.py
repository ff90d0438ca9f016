"""Which lines of a job's log a task printed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from qonduit.job_tasks import TaskInfo

_HEAD_LIMIT: Final = 400
"""A line that has gone on for so long without an end of its prefix has none."""
_PREFIX = re.compile(r"\[task (\d+) ([^\n]*?)\] ")


class TaskLines:
    """Lets through the lines of a log that some tasks printed: those that begin with `[task NUMBER NAME] `.

    Text may come in pieces of any size, and of a long line no more is kept than it takes to know whose it is.

    Args:
        task: A task, its number, or the name of some.
    """

    def __init__(self, task: TaskInfo | int | str) -> None:
        self._name, self._number = "", -1
        if isinstance(task, str):
            self._name = task
        else:
            self._number = task if isinstance(task, int) else task.number
        self._head = ""
        """Of the present line, while it is not known whose it is."""
        self._passes: bool | None = None
        """Whether the present line is let through; None while that is not known."""

    def feed(self, text: str) -> str:
        """Return what is to be let through of the next piece of the log."""
        return "".join(self._line(part) for part in re.split(r"(?<=\n)", text) if part)

    def end(self) -> str:
        """Return what is left at the end of the log."""
        return self._decide(self._head)

    def _line(self, part: str) -> str:
        """Take a line, or a part of one."""
        if self._passes is None:
            self._head += part
            if not (_PREFIX.match(self._head) or part.endswith("\n") or len(self._head) > _HEAD_LIMIT):
                return ""
            part = self._decide(self._head)
            whole = self._head.endswith("\n")
        else:
            whole = part.endswith("\n")
            part = part if self._passes else ""
        if whole:
            self._passes = None
        self._head = ""
        return part

    def _decide(self, line: str) -> str:
        found = _PREFIX.match(line)
        self._passes = found is not None and (found[2] == self._name or int(found[1]) == self._number)
        return line if self._passes else ""
