"""What the gateway is told of each task: pages of records, each sent again when it has changed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qonduit_service_kit.messages import TASKS_A_PAGE, TaskRecord, TasksPage, TaskState

from qonduit_worker.tasks.meter import count
from qonduit_worker.tasks.task import Task, record

if TYPE_CHECKING:
    from qonduit_worker.tasks.task import Finished

_NOT_SHOWN = "The function's own code failed; its provider can see why."


class TaskPages:
    """Every task of an attempt, by number. A page whose tasks have all ended is forgotten once it was sent.

    `place` is the attempt's in a trace, if it is in one. Of a provider's function its users are not shown what a task
    raised: like all of a traceback, it is the provider's.
    """

    def __init__(self, job_id: str, job_attempt: int, *, place: str = "", provider: str = "") -> None:
        self._place = place
        self._provider = provider
        self._job_id = job_id
        self._job_attempt = job_attempt
        self._pages: dict[int, list[Task | TaskRecord]] = {}
        self._unfinished: dict[int, int] = {}
        self._revisions: dict[int, int] = {}
        self._dirty: dict[int, None] = {}

    def add(self, task: Task) -> None:
        """Note a new task; tasks come in the order of their numbers."""
        page = task.number // TASKS_A_PAGE
        self._pages.setdefault(page, []).append(task)
        self._unfinished[page] = self._unfinished.get(page, 0) + 1
        self._dirty[page] = None

    def changed(self, task: Task) -> None:
        """Note that a task is in another state."""
        self._dirty[task.number // TASKS_A_PAGE] = None

    def finished(self, finished: Finished, now: float) -> None:
        """Note and count the end of a task."""
        page, index = divmod(finished.task.number, TASKS_A_PAGE)
        ended = record(finished.task, finished, now)
        if self._provider and ended.state is TaskState.ERROR:
            ended = replace(ended, text=_NOT_SHOWN)
        self._pages[page][index] = ended
        count(ended, finished.task.losses, self._place)
        self._unfinished[page] -= 1
        self._dirty[page] = None

    def used(self, task: Task, cpu_s: float, peak_mem_bytes: int) -> None:
        """Note what a task used that had ended here before; too late for a page that is forgotten."""
        page, index = divmod(task.number, TASKS_A_PAGE)
        ended = self._pages[page][index] if page in self._pages else None
        if isinstance(ended, TaskRecord):
            peak_mem_bytes = max(peak_mem_bytes, ended.peak_mem_bytes)
            self._pages[page][index] = replace(ended, cpu_s=ended.cpu_s + cpu_s, peak_mem_bytes=peak_mem_bytes)
            self._dirty[page] = None

    def due(self) -> list[TasksPage]:
        """Return the pages that have changed since they were returned last."""
        dirty, self._dirty = self._dirty, {}
        return [self._page(number) for number in dirty]

    def _page(self, number: int) -> TasksPage:
        entries = self._pages[number]
        revision = self._revisions[number] = self._revisions.get(number, 0) + 1
        records = tuple(record(entry) if isinstance(entry, Task) else entry for entry in entries)
        if not self._unfinished[number] and len(entries) == TASKS_A_PAGE:
            del self._pages[number], self._unfinished[number], self._revisions[number]
        return TasksPage(self._job_id, self._job_attempt, number, revision, records)
