"""Which queued job goes next, and what each user has had."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_LARGEST_EXPONENT = 500.0
_FIRST_GUESS_S = 1.0
_SMOOTHING = 0.2


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued job as the choice needs it."""

    qpu_job_id: str
    user: str
    backend: str
    session_id: str
    created_at: float
    eligible_at: float
    """Not before this time (seconds since the epoch)."""


class Shares:
    """What each user has had of the QPUs, past use fading by half in every `half_life_s`.

    Fading keeps one who used much yesterday from waiting until everybody else has used as much (HTCondor's effective
    user priority: Livny and Raman, "High-throughput resource management", 1998). A job counts with what is expected
    of it from when it starts, as in start-time fair queueing (Goyal, Vin, Cheng 1996): otherwise a user's first jobs
    would take all places before the first of them was charged.

    All scores fade alike, so none is touched for it: a charge is written larger the later it comes.
    """

    def __init__(self, half_life_s: float, now: float) -> None:
        self._half_life_s = half_life_s
        self._origin = now
        self._scores: dict[str, float] = {}
        self._running: Counter[str] = Counter()
        self.typical_s = _FIRST_GUESS_S
        """What a job is expected to be charged: a moving mean of what jobs were charged."""

    def charged(self, user: str, seconds: float, at: float, *, typical: bool = True) -> None:
        """Add what a user was charged; in any order. Whole sessions and what cost nothing are not `typical` of jobs."""
        exponent = (at - self._origin) / self._half_life_s
        if exponent > _LARGEST_EXPONENT:
            self._scores = {name: score * math.pow(2.0, -exponent) for name, score in self._scores.items()}
            self._origin, exponent = at, 0.0
        self._scores[user] = self._scores.get(user, 0.0) + seconds * math.pow(2.0, exponent)
        if typical and seconds > 0:
            self.typical_s += _SMOOTHING * (seconds - self.typical_s)

    def began(self, user: str) -> None:
        """Count a job that has begun."""
        self._running[user] += 1

    def ended(self, user: str) -> None:
        """Count it no more; what it was charged may come later."""
        self._running[user] -= 1
        if not self._running[user]:
            del self._running[user]

    def had(self, user: str, now: float) -> float:
        """Return the seconds that count for a user, in seconds of now."""
        faded = self._scores.get(user, 0.0) * math.pow(2.0, (self._origin - now) / self._half_life_s)
        return faded + self._running[user] * self.typical_s


def in_order(waiting: Iterable[Waiting], had: Callable[[str], float], now: float) -> list[Waiting]:
    """Return the eligible jobs, those of the user who has had the least first, the oldest first among theirs.

    Args:
        waiting: The queue, in any order.
        had: The seconds that each user has had.
        now: Seconds since the epoch.
    """
    eligible = [job for job in waiting if job.eligible_at <= now]
    seconds = {user: had(user) for user in {job.user for job in eligible}}
    return sorted(eligible, key=lambda job: (seconds[job.user], job.created_at, job.qpu_job_id))
