"""What a task leaves in /data, where it is not stored: its log says so, as it would vanish without a word."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from qonduit.program.channel import AgentError

if TYPE_CHECKING:
    from qonduit.program.channel import AgentChannel

_MOST_NAMED = 5


class LeftFiles:
    """Names each file once; what is written into one that was there before is not noticed by itself."""

    def __init__(self, channel: AgentChannel) -> None:
        self._channel = channel
        self._folder = os.environ.get("DATA_PATH", "")
        self._named: set[str] = set()
        self._changed_ns = self._look()

    def name_new_ones(self) -> None:
        """Print a line if the task that has just ended left any: in its log, as it is still the one that prints."""
        changed_ns = self._look()
        if changed_ns == self._changed_ns:  # Of all that small tasks are asked: it takes a microsecond.
            return
        self._changed_ns = changed_ns
        try:
            left = set(self._channel.call("files_left")) - self._named
        except AgentError:  # Its disk fails, for one: the task has ended well all the same.
            return
        if left:
            self._named |= left
            print(_line(sorted(left)), file=sys.stderr, flush=True)  # noqa: T201 - For whoever reads the job's log.

    def _look(self) -> int:
        try:
            return os.stat(self._folder).st_mtime_ns  # noqa: PTH116 - A Path would take as long again.
        except OSError:
            return 0


def _line(left: list[str]) -> str:
    names = ", ".join(left[:_MOST_NAMED])
    more = f" and {len(left) - _MOST_NAMED} more" if len(left) > _MOST_NAMED else ""
    return (
        f"[qonduit] in /data this task leaves {names}{more}, and tasks' files are not stored by themselves: "
        "call sync_files() in the task, or return the value"
    )
