"""How fast and how often a provider is asked: pure, time is a parameter."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

LIMIT_WINDOW_S = 61.0
"""A minute, and a second more: the provider counts when a request arrives, we when it leaves."""


class SubmissionLimit:
    """So many submissions in any minute, and none while the provider has said to wait.

    A log of the last minute, not a bucket that refills: a bucket lets almost twice as many through in a minute as it
    holds, which the provider would refuse.
    """

    def __init__(self, a_minute: int) -> None:
        self._sent: deque[float] = deque(maxlen=a_minute)
        self._a_minute = a_minute
        self.held_until = 0.0

    def of(self, a_minute: int) -> SubmissionLimit:
        """Return one with another limit, which remembers what was sent."""
        other = SubmissionLimit(a_minute)
        other.held_until = self.held_until
        for at in self._sent:
            other.take(at)
        return other

    def ready_in(self, now: float) -> float:
        """Return the seconds until one more may be sent."""
        full = len(self._sent) == self._a_minute
        free_at = self._sent[0] + LIMIT_WINDOW_S if full else 0.0
        return max(0.0, free_at - now, self.held_until - now)

    def take(self, at: float) -> None:
        """Count one that is sent."""
        self._sent.append(at)

    def hold(self, until: float) -> None:
        """Send none before a time."""
        self.held_until = max(self.held_until, until)


@dataclass(slots=True)
class Backoff:
    """Growing waits with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015)."""

    first_s: float = 0.5
    most_s: float = 60.0
    tries: int = 0
    random: random.Random = field(default_factory=random.Random)

    def next_s(self) -> float:
        """Return the next wait in seconds; never less than a quarter of what it could be at most."""
        most = min(self.most_s, self.first_s * 2.0**self.tries)
        self.tries += 1
        return self.random.uniform(most / 4, most)


@dataclass(slots=True)
class Breaker:
    """A circuit breaker: after some failures in a row nothing new is begun for a while, longer after each further one.

    M. Nygard, "Release It!", 2007. What is followed already is asked for all the same, and closes it when it succeeds.
    """

    failures_to_open: int = 5
    backoff: Backoff = field(default_factory=lambda: Backoff(first_s=5.0, most_s=300.0))
    failures: int = 0
    open_until: float = 0.0
    reason: str = ""

    def failed(self, reason: str, now: float) -> None:
        """Count a failure."""
        self.failures += 1
        self.reason = reason
        if self.failures >= self.failures_to_open and now >= self.open_until:
            self.open_until = now + self.backoff.next_s()

    def succeeded(self) -> None:
        """Close it."""
        self.failures, self.open_until, self.reason, self.backoff.tries = 0, 0.0, "", 0

    def is_open(self) -> bool:
        """Whether it has opened and nothing succeeded since."""
        return self.failures >= self.failures_to_open

    def ready_in(self, now: float) -> float:
        """Return the seconds until something may be begun."""
        return max(0.0, self.open_until - now)
