"""A job's tasks: values that print as tables, fetched from the server as they are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final, overload

from qonduit.job_history import format_table, html_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

_SHOWN: Final = 20
"""Rows that a table shows by itself."""


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """How many of a job's tasks stand where."""

    queued: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    canceled: int = 0

    @property
    def total(self) -> int:
        """All tasks that were submitted so far."""
        return self.queued + self.running + self.done + self.failed + self.canceled

    def __str__(self) -> str:
        others = [
            f"{count} {word}"
            for count, word in ((self.running, "running"), (self.failed, "failed"), (self.canceled, "canceled"))
            if count
        ]
        return ", ".join([f"tasks {self.done}/{self.total}", *others])


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A task at one moment."""

    number: int
    """Its place in the order of submission, from 0."""
    name: str
    state: str
    """"WAITING" for arguments, "QUEUED", "RUNNING", "DONE", "ERROR", "OUT_OF_MEMORY", "TIMEOUT", "LOST",
    "UNSCHEDULABLE" or "CANCELED"."""
    worker: str
    """Where it ran last; empty before."""
    queue_s: float
    """Seconds that it waited, so far, until its last start."""
    run_s: float
    """Seconds from its last start to its end, or until now."""
    cpu_s: float
    peak_mem_bytes: int
    attempt: int
    error_text: str
    """Why it failed; the log has more."""
    task_id: str
    parent_id: str
    """The task that started it; empty if the program did."""
    stage: str
    """In which it was submitted, and to which its cost belongs: "MAPPING", ..., or empty."""
    cpu: float
    """Cores that it asked for."""
    mem_bytes: int
    """Memory that it asked for."""
    gpus: int
    queued: datetime | None
    started: datetime | None
    ended: datetime | None

    def row(self) -> tuple[str, ...]:
        """Return the task as texts under `Tasks.HEAD`."""
        peak = f"{self.peak_mem_bytes / 1024**2:,.0f} MiB" if self.peak_mem_bytes else ""
        times = (f"{seconds:.3f}" for seconds in (self.queue_s, self.run_s, self.cpu_s))
        attempt = str(self.attempt or "")
        return (str(self.number), self.name, self.state, self.worker, *times, peak, attempt, self.error_text)


@dataclass(frozen=True, slots=True)
class TasksPage:
    """A part of a list of tasks, as the server gives it."""

    tasks: Sequence[TaskInfo]
    next_token: str
    """Empty at the end."""
    counts: Mapping[str, int]
    """Of all the attempt's tasks, by state."""
    attempt: int
    """The attempt of the job that they belong to."""


class Tasks(Sequence[TaskInfo]):
    """The tasks of one attempt of a job, in order of submission.

    They are fetched as they are looked at, a page at a time, and kept: ask the job again to see how they are
    later. `len` and negative indices fetch all; iterating does not hold more than it has come to.
    """

    HEAD: Final = ("#", "task", "state", "worker", "queue s", "run s", "CPU s", "peak memory", "attempt", "error")
    RIGHT: Final = frozenset({0, 4, 5, 6, 7, 8})

    def __init__(self, fetch: Callable[[str], TasksPage]) -> None:
        self._fetch = fetch
        self._first = fetch("")
        self._known = list(self._first.tasks)
        self._token = self._first.next_token

    @property
    def counts(self) -> Mapping[str, int]:
        """How many tasks of the attempt are in each state, whatever was asked for; states without one are missing."""
        return self._first.counts

    @property
    def attempt(self) -> int:
        """The attempt of the job that the tasks belong to."""
        return self._first.attempt

    def __iter__(self) -> Iterator[TaskInfo]:
        index = 0
        while True:
            while index == len(self._known) and self._token:
                self._more()
            if index == len(self._known):
                return
            yield self._known[index]
            index += 1

    @overload
    def __getitem__(self, index: int) -> TaskInfo: ...
    @overload
    def __getitem__(self, index: slice) -> list[TaskInfo]: ...
    def __getitem__(self, index: int | slice) -> TaskInfo | list[TaskInfo]:
        start, stop = (index.start, index.stop) if isinstance(index, slice) else (index, index + 1)
        from_the_end = stop is None or stop < 0 or (start is not None and start < 0)
        while self._token and (from_the_end or len(self._known) < stop):
            self._more()
        return self._known[index]

    def __len__(self) -> int:
        while self._token:
            self._more()
        return len(self._known)

    def _more(self) -> None:
        page = self._fetch(self._token)
        self._known += page.tasks
        self._token = page.next_token

    def __repr__(self) -> str:
        rows = [task.row() for task in islice(self, _SHOWN)]
        return "\n".join([format_table(self.HEAD, rows, right=self.RIGHT), *self._summary(len(rows))])

    def _repr_html_(self) -> str:
        rows = [task.row() for task in islice(self, _SHOWN)]
        return html_table(self.HEAD, rows) + "".join(f"<p>{line}</p>" for line in self._summary(len(rows)))

    def _summary(self, shown: int) -> list[str]:
        more = ["..."] if shown < len(self._known) or self._token else []
        counted = ", ".join(f"{count} {state}" for state, count in self.counts.items())
        return [*more, f"{sum(self.counts.values())} tasks: {counted}" if counted else "no tasks"]
