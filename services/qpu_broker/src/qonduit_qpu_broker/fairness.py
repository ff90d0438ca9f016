"""Which queued job goes next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued job as the choice needs it."""

    qpu_job_id: str
    user: str
    backend: str
    created_at: float
    eligible_at: float
    """Not before this time (seconds since the epoch)."""


def next_job(waiting: Collection[Waiting], used_s: Mapping[str, float], now: float) -> Waiting | None:
    """Return the eligible job of the user who has used the least so far, the oldest first among theirs.

    Serving the least served keeps shares max-min fair over time (start-time fair queueing with equal
    weights: Goyal, Vin, Cheng 1996, in its simplest form).
    """
    eligible = [job for job in waiting if job.eligible_at <= now]
    if not eligible:
        return None
    return min(eligible, key=lambda job: (used_s.get(job.user, 0.0), job.created_at, job.qpu_job_id))
