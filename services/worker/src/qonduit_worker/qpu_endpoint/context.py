"""For whom an endpoint works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qonduit_service_kit.messages import worker

if TYPE_CHECKING:
    from qonduit_service_kit.messages import Address


@dataclass(frozen=True, slots=True)
class ProgramContext:
    """One attempt of one job on one worker."""

    job_id: str
    attempt: int
    user: str
    worker_id: str

    @property
    def reply_to(self) -> Address:
        """Where the broker's answers go."""
        return worker(self.worker_id)
