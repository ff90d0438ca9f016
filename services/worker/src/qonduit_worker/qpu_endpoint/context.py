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
    qpu_budget_s: float | None = None
    """Most QPU seconds that the job may be charged; None for no limit."""
    user_qpu_budget_s: float | None = None
    """Most that its user may be charged in any 28 days; None for no limit."""

    @property
    def reply_to(self) -> Address:
        """Where the broker's answers go."""
        return worker(self.worker_id)
