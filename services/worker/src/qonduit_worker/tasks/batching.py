"""How many tasks travel together: pure, from how long tasks of the same function ran before."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Collection

    from qonduit_worker.tasks.task import Task

BATCH_S: Final = 0.02
"""A batch should carry this many seconds of work: its way costs a tenth of that, and nobody waits long for its end."""
MOST_TASKS: Final = 256
MOST_BYTES: Final = 40 * 1024
"""Of the calls and functions of a batch, so that a message of several stays under 64 KiB."""
LEAST_EXECUTORS: Final = 2
SHORT_WAIT_S: Final = 0.02
"""An executor that waits no longer than this for a large value waits for a busy agent, not for a network: that is no
work of the task, and to send tasks one by one because of it would keep the agent busier still."""
LOOK_AHEAD: Final = 64
"""How many of the long tasks in front are put in order together: none is overtaken by more than the others of these."""
_RISE: Final = 0.5
_FALL: Final = 0.1


class RunTimes:
    """What tasks of each function took lately.

    A moving mean that rises fast and falls slowly: to take a long task for a short one holds others up behind it,
    the other mistake costs a message.
    """

    def __init__(self) -> None:
        self._mean_s: dict[str, float] = {}
        self._last_s: dict[str, tuple[float, float]] = {}

    def note(self, function_id: str, run_s: float, waited_s: float = 0.0) -> None:
        """Note that a task has run so long, and waited for large values for a part of that."""
        run_s -= min(waited_s, SHORT_WAIT_S)
        mean_s = self._mean_s.get(function_id)
        if mean_s is None:
            self._mean_s[function_id] = run_s
            self._last_s[function_id] = (run_s, run_s)
            return
        self._mean_s[function_id] = mean_s + (_RISE if run_s > mean_s else _FALL) * (run_s - mean_s)
        self._last_s[function_id] = (self._last_s[function_id][1], run_s)

    def expected_s(self, function_id: str) -> float | None:
        """Return how long the next one will take, None if none has run yet."""
        return self._mean_s.get(function_id)

    def last_two_s(self, function_id: str) -> float:
        """Return the mean of the last two, 0 if none has run yet."""
        return sum(self._last_s.get(function_id, (0.0, 0.0))) / 2


def batch_size(ready: Collection[Task], times: RunTimes, executors: int) -> tuple[int, float]:
    """Return how many of the tasks in front travel together, at least 1, and how long they will run (0: unknown).

    Guided self-scheduling (Polychronopoulos and Kuck, IEEE Transactions on Computers C-36, 1987): a batch is at
    most an equal share of half of what is left, so that all executors end at about the same time. A task of a
    function that has not run yet goes alone.

    Args:
        ready: The tasks that wait, in their order; must not be empty.
        times: What is known of their functions.
        executors: How many executors take them now.
    """
    share = math.ceil(len(ready) / (2 * max(executors, LEAST_EXECUTORS)))
    expected_s, size_bytes = 0.0, 0
    functions: set[str] = set()
    for count, task in enumerate(islice(ready, min(share, MOST_TASKS))):
        run_s = times.expected_s(task.function.function_id)
        size_bytes += task.size_bytes
        if task.function.function_id not in functions:
            functions.add(task.function.function_id)
            size_bytes += len(task.function.code or b"")
        if run_s is None or expected_s + run_s > BATCH_S or size_bytes > MOST_BYTES:
            return (count, expected_s) if count else (1, run_s or 0.0)
        expected_s += run_s
    return min(share, MOST_TASKS), expected_s


def put_in_order(ready: OrderedDict[str, Task], times: RunTimes) -> int:
    """Have the longest of the next tasks go first, so that all executors end at about the same time.

    Longest processing time first (Graham, SIAM Journal on Applied Mathematics 17, 1969): what begins last is short,
    and no executor works on alone for long. Of the same function the larger call is taken for the longer one, as it
    is with circuits; arguments too large for a message count as the largest. Equals stay in their order, and what
    others wait for (tasks of tasks, what was lost) in front.

    Returns:
        How many are in their order now; 0 if the first is short, or none of its function has run yet.
    """
    if (times.expected_s(next(iter(ready.values())).function.function_id) or 0.0) <= BATCH_S:
        return 0

    def key(task: Task) -> tuple[bool, float, bool, int]:
        if task.owner is not None or task.attempt > 1:
            return False, 0.0, False, 0
        expected_s = times.expected_s(task.function.function_id) or 0.0
        return True, -expected_s, not task.has_stored_arguments, -task.size_bytes

    front = sorted(islice(ready.values(), LOOK_AHEAD), key=key)
    for task in reversed(front):
        ready.move_to_end(task.task_id, last=False)
    return len(front)
