"""A provider in virtual time, and jobs for it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from qonduit_qpu_broker.ibm.pace import SubmissionLimit

A_MINUTE = 5
LANES = 5


@dataclass
class Record:
    """A job as the queue reads it."""

    qpu_job_id: str
    user: str
    backend: str
    created_at: float
    session_id: str = ""


@dataclass
class Provider:
    """Takes so many jobs a minute, and so many at a time on each device."""

    clock: float = 0.0
    limit: SubmissionLimit = field(default_factory=lambda: SubmissionLimit(A_MINUTE))
    running: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    sent: list[float] = field(default_factory=list)

    def claim(self, _qpu_job_id: str, backend: str, _session_id: str) -> float | None:
        """Keep a place, as an instance does."""
        if self.running[backend] >= LANES:
            return None
        if (wait_s := self.limit.ready_in(self.clock)) > 0:
            return wait_s
        self.running[backend] += 1
        self.limit.take(self.clock)
        self.sent.append(self.clock)
        return 0.0
