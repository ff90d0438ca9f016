"""Tells those who watch a job of each change, at the moment it is committed.

With several gateways on one database, the one that commits a change would tell the others by a fanout
message, and `tell` would be called for those as well; nothing else here would change.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from qonduit_gateway.jobs.model import Job
    from qonduit_gateway.jobs.tasks import TaskTally

_BACKLOG = 1000
_TASKS_PAUSE_S = 0.25
"""Between two updates of which only the tasks are new: they are for people, and tasks may be thousands a second."""


class Watch:
    """One watcher's changes, in order. One that is too slow misses the oldest, never the newest."""

    def __init__(self, watchers: Watchers, job_id: str) -> None:
        self._watchers = watchers
        self._job_id = job_id
        self._changes: deque[Job] = deque(maxlen=_BACKLOG)
        self._waker = asyncio.Event()
        self.tasks: TaskTally | None = None
        """The tasks as they were told last; None before the first time."""
        self._new_tasks = False
        self._pause_ends = 0.0

    def __enter__(self) -> Self:
        self._watchers.add(self._job_id, self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watchers.remove(self._job_id, self)

    def tell(self, job: Job) -> None:
        """Add a change."""
        self._changes.append(job)
        self._waker.set()

    def tell_tasks(self, tally: TaskTally) -> None:
        """Set what is known of the tasks."""
        self.tasks = tally
        self._new_tasks = True
        self._waker.set()

    async def next(self) -> Job | None:
        """Return the next change, or None when only `tasks` is new; waits for either."""
        while not self._changes:
            now = time.monotonic()
            if self._new_tasks and now >= self._pause_ends:
                self._pause_ends = now + _TASKS_PAUSE_S
                break
            self._waker.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._waker.wait(), self._pause_ends - now if self._new_tasks else None)
        self._new_tasks = False
        return self._changes.popleft() if self._changes else None


class Watchers:
    """Who watches what, in this process."""

    def __init__(self) -> None:
        self._by_job: defaultdict[str, set[Watch]] = defaultdict(set)

    def watch(self, job_id: str) -> Watch:
        """Return a watch; changes are kept for it from `with` on."""
        return Watch(self, job_id)

    def tell(self, job: Job) -> None:
        """Tell a job's watchers of its present state."""
        for watch in self._by_job.get(job.job_id, ()):
            watch.tell(job)

    def tell_tasks(self, job_id: str, tally: TaskTally) -> None:
        """Tell a job's watchers of its tasks."""
        for watch in self._by_job.get(job_id, ()):
            watch.tell_tasks(tally)

    def watched(self, job_id: str) -> bool:
        """Whether anybody watches a job."""
        return job_id in self._by_job

    @property
    def count(self) -> int:
        """How many watches there are."""
        return sum(len(watches) for watches in self._by_job.values())

    def add(self, job_id: str, watch: Watch) -> None:
        """Begin to tell a watch."""
        self._by_job[job_id].add(watch)

    def remove(self, job_id: str, watch: Watch) -> None:
        """Stop telling a watch."""
        watches = self._by_job.get(job_id, set())
        watches.discard(watch)
        if not watches:
            self._by_job.pop(job_id, None)
