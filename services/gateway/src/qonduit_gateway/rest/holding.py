"""Which polls are held until the job is over: that client sleeps 30 s between two of them.

Its `result()` asks for the status at once, and again 30 s after each answer (older clients: 5 s). Its `status()`, which
people call, sends the very same request and has to stay quick. What tells them apart is time:

- A poll in the job's first seconds comes from a program that has just submitted it. It is held until the job is over or
  is `YOUNG_S` old: short jobs return at once, and nobody waits longer than that for a status.
- A poll that comes almost exactly 30 s or 5 s after the last answer comes from that loop. It is held for as long as is
  safe below the client's own timeout of 30 s.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

YOUNG_S = 3.0
HOLD_S = 20.0
_RHYTHMS_S = (30.0, 5.0)
_LATE_S = 0.4
"""A sleep is never too short, and with the way of the request not much too long."""
_MOST_REMEMBERED = 10_000


class Polls:
    """Remembers when each job's poll was answered last, and tells how long the next one is held."""

    def __init__(self, longest_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._longest_s = longest_s
        self._clock = clock
        self._answered: OrderedDict[str, float] = OrderedDict()
        self._holds: set[asyncio.Timeout] = set()

    @asynccontextmanager
    async def holding(self, most_s: float) -> AsyncIterator[None]:
        """Bound a wait for a job's end; TimeoutError after so many seconds, or as soon as holds are released."""
        async with asyncio.timeout(most_s) as hold:
            self._holds.add(hold)
            try:
                yield
            finally:
                self._holds.discard(hold)

    def release(self) -> None:
        """Have all that is held answered now: the gateway stops, and a client whose connection breaks gives up."""
        self._longest_s = 0.0
        for hold in list(self._holds):
            hold.reschedule(asyncio.get_running_loop().time())

    def hold_s(self, job_id: str, age_s: float) -> float:
        """Return the seconds for which a poll of a job that is `age_s` old may be held; 0 to answer at once."""
        since = self._clock() - self._answered.get(job_id, -1e9)
        if any(rhythm <= since <= rhythm + _LATE_S for rhythm in _RHYTHMS_S):
            return self._longest_s
        return min(max(YOUNG_S - age_s, 0.0), self._longest_s)

    def answered(self, job_id: str) -> None:
        """Note that a poll was answered just now."""
        self._answered[job_id] = self._clock()
        self._answered.move_to_end(job_id)
        if len(self._answered) > _MOST_REMEMBERED:
            self._answered.popitem(last=False)

    def over(self, job_id: str) -> None:
        """Forget a job that is over: nothing is held any more."""
        self._answered.pop(job_id, None)
