"""Several upstreams as one: each device belongs to one of them, and no two have the same name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qonduit_qpu_broker.upstream import Condition, Description, Device, Outcome, Query, Submission, Upstream


class Upstreams:
    """Passes each request on to the one that has the device, or the job."""

    def __init__(self, parts: Sequence[Upstream]) -> None:
        self._parts = parts
        self.programs = frozenset[str]().union(*(part.programs for part in parts))
        self._claimed: dict[str, Upstream] = {}

    async def start(self) -> None:
        """Start all."""
        for part in self._parts:
            await part.start()

    async def stop(self) -> None:
        """Stop all."""
        for part in reversed(self._parts):
            await part.stop()

    def devices(self) -> Sequence[Device]:
        """Return all devices."""
        return [device for part in self._parts for device in part.devices()]

    def expect(self) -> None:
        """Pass it on."""
        for part in self._parts:
            part.expect()

    async def describe(self, kind: Description, backend: str, query: Query = ()) -> bytes:
        """Return what the one that has a device says about it; KeyError."""
        return await self._of(backend).describe(kind, backend, query)

    async def held(self) -> frozenset[str]:
        """Return what each may have from before a restart."""
        found: set[str] = set()
        for part in self._parts:
            for qpu_job_id in await part.held():
                self._claimed[qpu_job_id] = part
                found.add(qpu_job_id)
        return frozenset(found)

    def claim(self, qpu_job_id: str, backend: str, session_id: str) -> float | None:
        """Keep a place where the device is."""
        try:
            part = self._of(backend)
        except KeyError:
            return None  # Its provider does not list its devices now.
        wait_s = part.claim(qpu_job_id, backend, session_id)
        if wait_s == 0:
            self._claimed[qpu_job_id] = part
        return wait_s

    def give_back(self, qpu_job_id: str) -> None:
        """Give a place back."""
        if (part := self._claimed.pop(qpu_job_id, None)) is not None:
            part.give_back(qpu_job_id)

    async def run(self, submission: Submission, started: Callable[[float], Awaitable[None]]) -> Outcome:
        """Run it where it has its place."""
        try:
            return await self._claimed[submission.qpu_job_id].run(submission, started)
        finally:
            self._claimed.pop(submission.qpu_job_id, None)

    async def charge(self, qpu_job_id: str) -> float:
        """Return what the one that had it was charged; the others had nothing of it."""
        return sum([await part.charge(qpu_job_id) for part in self._parts])

    async def cancel(self, qpu_job_id: str) -> None:
        """Cancel it where it runs."""
        if (part := self._claimed.get(qpu_job_id)) is not None:
            await part.cancel(qpu_job_id)

    async def release(self, session_id: str) -> None:
        """Pass it on: only one has it."""
        for part in self._parts:
            await part.release(session_id)

    def conditions(self) -> Sequence[Condition]:
        """Return those of all."""
        return [condition for part in self._parts for condition in part.conditions()]

    def _of(self, backend: str) -> Upstream:
        for part in self._parts:
            if any(device.name == backend for device in part.devices()):
                return part
        raise KeyError(backend)
