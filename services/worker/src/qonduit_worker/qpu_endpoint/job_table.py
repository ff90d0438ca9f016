"""What the endpoint knows of its program's QPU jobs, so that a waiting program costs next to nothing."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.messages import QpuState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qonduit_service_kit.messages import QpuTransition

    from qonduit_worker.qpu_endpoint.broker_calls import Received

RAPID_S: Final = 1.0
"""A poll that follows an answer within this time is taken for waiting, and held."""
HOLD_S: Final = 5.0
RESYNC_S: Final = 3.0
"""A lost transition must not hang a program: an answer older than this is asked for again."""
PATIENCE_S: Final = 3.0
"""How long a broker may take before an older answer is given instead."""


@dataclass(slots=True)
class _Job:
    version: int = 0
    """Counts what is known to have changed."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    next_sequence: int = 0
    early: dict[int, QpuTransition] = field(default_factory=dict)
    final: bool = False
    received: Received | None = None
    received_version: int = -1
    received_at: float = 0.0
    answered_at: float = 0.0
    qpu_s: float = 0.0

    def touch(self) -> None:
        self.version += 1
        self.changed.set()
        self.changed = asyncio.Event()

    def is_current(self) -> bool:
        return self.received is not None and self.received_version >= self.version

    def is_fresh(self) -> bool:
        return self.is_current() and (self.final or time.monotonic() - self.received_at < RESYNC_S)


class JobTable:
    """QPU jobs by id."""

    def __init__(self) -> None:
        self._jobs: dict[str, _Job] = {}

    @property
    def consumed_s(self) -> float:
        """QPU seconds charged to this program so far."""
        return sum(job.qpu_s for job in self._jobs.values())

    def apply(self, transition: QpuTransition) -> list[QpuTransition]:
        """Take a transition and return those that are new now, in order; one that came before changes nothing."""
        job = self._jobs.setdefault(transition.qpu_job_id, _Job())
        if transition.sequence >= job.next_sequence:
            job.early[transition.sequence] = transition
        new = []
        while (following := job.early.pop(job.next_sequence, None)) is not None:
            job.next_sequence += 1
            job.final = following.state.final
            if following.qpu_seconds is not None:
                job.qpu_s = following.qpu_seconds
            new.append(following)
        if new:
            job.touch()
        return new

    def touch(self, qpu_job_id: str) -> None:
        """Note that something about a job changed, so that it is asked for again."""
        if (job := self._jobs.get(qpu_job_id)) is not None:
            job.touch()

    async def poll(self, qpu_job_id: str, fetch: Callable[[], Awaitable[Received]]) -> Received:
        """Return a job's document; a rapid repeat waits for a change, at most 5 s."""
        job = self._jobs.setdefault(qpu_job_id, _Job())
        if not job.final and job.is_current() and time.monotonic() - job.answered_at < RAPID_S:
            await self._hold(job)
        if not job.is_fresh():
            await self._refresh(qpu_job_id, job, fetch)
        if job.received is None:
            raise RuntimeError("a refresh ended without an answer")
        job.answered_at = time.monotonic()
        return job.received

    async def _hold(self, job: _Job) -> None:
        try:
            async with asyncio.timeout(HOLD_S):
                await job.changed.wait()
        except TimeoutError:
            pass

    async def _refresh(self, qpu_job_id: str, job: _Job, fetch: Callable[[], Awaitable[Received]]) -> None:
        version = job.version
        patience = PATIENCE_S if job.is_current() else None
        try:
            async with asyncio.timeout(patience):
                received = await fetch()
        except TimeoutError:
            return
        job.received, job.received_version, job.received_at = received, version, time.monotonic()
        job.final = job.final or _tells_an_end(received)
        if received.status != 200 and job.next_sequence == 0:  # noqa: PLR2004 -- HTTP's own.
            # No such job: a program that guesses ids must not fill the table.
            self._jobs.pop(qpu_job_id, None)


def _tells_an_end(received: Received) -> bool:
    """Whether a document shows a job that ended, as one of an earlier attempt, of which no transition comes."""
    if received.status != 200:  # noqa: PLR2004 -- HTTP's own.
        return False
    try:
        return QpuState(json.loads(received.body)["state"]["status"]).final
    except (ValueError, KeyError, TypeError):
        return False
