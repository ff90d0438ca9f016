"""Jobs that ended lately: whoever waited for the end asks for the result at once, which then needs no transaction."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit_gateway.jobs.model import Job

REMEMBER_S = 10.0
_MOST = 1000
_UNKNOWN = (None, None, 0.0)


class LatelyOver:
    """Jobs as this gateway committed them when they ended, with small results, each for some seconds.

    Nothing but deleting changes them any more. One that another gateway deletes is seen here
    until these seconds are over.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: OrderedDict[str, tuple[Job, bytes | None, float]] = OrderedDict()

    def get(self, job_id: str) -> Job | None:
        """Return a job that ended lately; None for any other, whether it is there or not."""
        return self._known(job_id)[0]

    def result(self, job_id: str) -> bytes | None:
        """Return the result of a job that ended lately, if it was told with the end."""
        return self._known(job_id)[1]

    def _known(self, job_id: str) -> tuple[Job | None, bytes | None]:
        job, result, until = self._jobs.get(job_id, _UNKNOWN)
        return (job, result) if self._clock() < until else (None, None)

    def add(self, job: Job, result: bytes | None) -> None:
        """Note a job that is over, as it was committed, and its result if that was told."""
        now = self._clock()
        self._jobs[job.job_id] = (job, result, now + REMEMBER_S)
        self._jobs.move_to_end(job.job_id)
        while len(self._jobs) > _MOST or next(iter(self._jobs.values()))[2] <= now:
            self._jobs.popitem(last=False)

    def forget(self, job_id: str) -> None:
        """Forget a job: it may have been deleted."""
        self._jobs.pop(job_id, None)
