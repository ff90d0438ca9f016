"""Runs jobs: each device has lanes; times are scripted."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from qonduit_qpu_broker.simulator.engine import Engine
from qonduit_qpu_broker.simulator.frames import SimulationReply, SimulationRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from fake_ibm.state import UpstreamJob

_LANES = 5
_MAX_QUBITS = 24


class Running:
    """Takes jobs from created to ended.

    Attributes:
        queue_s: How long a job waits at least.
        run_s: How long it runs at least.
        queue_open: While clear, no job begins.
        run_open: While clear, no job ends.
    """

    def __init__(self, began: Callable[[UpstreamJob], None], ended: Callable[[UpstreamJob], None]) -> None:
        self.queue_s = 0.0
        self.run_s = 0.0
        self.queue_open = asyncio.Event()
        self.queue_open.set()
        self.run_open = asyncio.Event()
        self.run_open.set()
        self.changed = asyncio.Condition()
        self._began = began
        self._ended = ended
        self._lanes: dict[str, asyncio.Semaphore] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._engine = Engine(max_qubits=_MAX_QUBITS)
        self._simulating = asyncio.Lock()

    def submit(self, job: UpstreamJob) -> None:
        """Let a job wait and run."""
        task = self._tasks[job.job_id] = asyncio.create_task(self._carry(job))
        task.add_done_callback(lambda _: self._tasks.pop(job.job_id, None))

    async def cancel(self, job: UpstreamJob) -> None:
        """End a job that has not ended; for what it ran so far it is charged."""
        task = self._tasks.pop(job.job_id, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if not job.final:
            charged_s = 0.0 if job.running_at is None else time.time() - job.running_at
            await self._end(job, "Cancelled", charged_s)

    async def until(self, job: UpstreamJob, *statuses: str) -> None:
        """Return once a job has one of these statuses."""
        async with self.changed:
            await self.changed.wait_for(lambda: job.status in statuses)

    async def stop(self) -> None:
        """End all."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _carry(self, job: UpstreamJob) -> None:
        await asyncio.sleep(self.queue_s)
        await self.queue_open.wait()
        async with self._lanes.setdefault(job.backend, asyncio.Semaphore(_LANES)):
            job.status, job.running_at = "Running", time.time()
            self._began(job)
            await self.tell()
            reply, result = await self._run(job)
            await asyncio.sleep(job.running_at + self.run_s - time.time())
            await self.run_open.wait()
            job.result, job.reason, job.reason_code = result, reply.reason, reply.code
            await self._end(job, "Completed" if reply.ok else "Failed", reply.charged_s)

    async def _run(self, job: UpstreamJob) -> tuple[SimulationReply, bytes]:
        if job.echo is not None:
            return SimulationReply(ok=True, charged_s=0.01), job.echo
        request = SimulationRequest(job.program, job.device, noisy=False)
        async with self._simulating:
            return await asyncio.to_thread(self._engine.run, request, job.body)

    async def _end(self, job: UpstreamJob, status: str, charged_s: float) -> None:
        job.status, job.finished_at = status, time.time()
        job.charged_s = charged_s if job.device == job.backend else 0.0  # On a mock nothing is charged.
        self._ended(job)
        await self.tell()

    async def tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    @contextlib.asynccontextmanager
    async def held(self, gate: asyncio.Event) -> AsyncIterator[None]:
        """Keep a gate closed for a while."""
        gate.clear()
        try:
            yield
        finally:
            gate.set()
