"""The local devices as an upstream."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import QpuState

from qonduit_qpu_broker.local.catalog import mock_of
from qonduit_qpu_broker.local.process import SimulatorDiedError, SimulatorProcess
from qonduit_qpu_broker.simulator.frames import SimulationRequest
from qonduit_qpu_broker.upstream import Condition, Device, Outcome, Submission

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qonduit_qpu_broker.local.catalog import DeviceCatalog
    from qonduit_qpu_broker.local.noise_making import NoiseMaker
    from qonduit_qpu_broker.upstream import Description, Query

_log = get_logger("local-devices")
_DIED_CODE = 9998
_KEPT_DESCRIPTIONS = 8


class LocalDevices:
    """Simulated devices; one simulation at a time, in a process of its own.

    The process is warmed up when a program looks at devices, and ended when none has for a while: it holds as much
    memory as two services, and most programs have no QPU job.
    """

    programs = frozenset({"sampler", "estimator", "executor"})

    def __init__(
        self,
        catalog: DeviceCatalog,
        process: SimulatorProcess,
        *,
        noisy: bool,
        idle_s: float,
        prefix: str = "",
        noise: NoiseMaker | None = None,
    ) -> None:
        self._catalog = catalog
        self._process = process
        self._noisy = noisy
        self._noise = noise
        self._devices = {prefix + facts.name: (facts, False) for facts in catalog.devices()}
        """By the name for programs, with a prefix where the real ones are a provider's; and whether it is a mock."""
        for name, (facts, _) in tuple(self._devices.items()):
            self._devices.setdefault(mock_of(name), (facts, True))
        self._idle_s = idle_s
        self._ending: asyncio.TimerHandle | None = None
        self._claimed = ""
        self._running: dict[str, asyncio.Task[Outcome]] = {}
        self._prewarming: asyncio.Task[None] | None = None
        self._described = lru_cache(_KEPT_DESCRIPTIONS)(self._describe)

    async def start(self) -> None:
        """Do nothing yet."""

    async def stop(self) -> None:
        """End the simulator; what ran is run again after the next start."""
        if self._ending is not None:
            self._ending.cancel()
        tasks = [task for task in (*self._running.values(), self._prewarming) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._noise is not None:
            await self._noise.stop()
        await self._process.stop()

    def devices(self) -> tuple[Device, ...]:
        """Return all described devices, the largest first, then the mocks of them."""
        return tuple(
            Device(
                name=name,
                qubits=facts.qubits,
                family=facts.family,
                revision=facts.revision,
                version=facts.version,
                basis_gates=facts.basis_gates,
                mock=mock,
            )
            for name, (facts, mock) in self._devices.items()
        )

    def expect(self) -> None:
        """Warm the simulator up, and keep it for a while; jobs that come before it is ready wait for it."""
        self._prewarm()
        self._end_later()

    def _end_later(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
        self._ending = asyncio.get_running_loop().call_later(self._idle_s, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if self._running or (self._prewarming is not None and not self._prewarming.done()):
            self._end_later()
        else:
            # A job that comes now waits until it has ended, then starts another one.
            self._prewarming = asyncio.create_task(self._process.stop_when_free(), name="end-idle-simulator")

    async def describe(self, kind: Description, backend: str, query: Query = ()) -> bytes:  # noqa: ARG002 -- it has one.
        """Return a device's configuration or properties."""
        return self._described(kind, backend)

    def _describe(self, kind: Description, backend: str) -> bytes:
        read = self._catalog.configuration if kind == "configuration" else self._catalog.properties
        described = read(self._devices[backend][0].name) or {}
        return json.dumps(described | {"backend_name": backend} if described else {}).encode()

    async def held(self) -> frozenset[str]:
        """Return none: what ran before a restart runs again."""
        return frozenset()

    def claim(self, qpu_job_id: str, backend: str, session_id: str) -> float | None:  # noqa: ARG002 -- all the same.
        """Keep the one place."""
        if self._claimed:
            return None
        self._claimed = qpu_job_id
        return 0.0

    def give_back(self, qpu_job_id: str) -> None:
        """Give the place back."""
        if self._claimed == qpu_job_id:
            self._claimed = ""

    async def run(self, submission: Submission, started: Callable[[float], Awaitable[None]]) -> Outcome:
        """Simulate a submission; after a crash it simply runs again."""
        begun: list[float] = []

        async def note_started() -> None:
            begun.append(time.monotonic())
            await started(time.time())

        task = asyncio.ensure_future(self._simulate(submission, note_started))
        self._running[submission.qpu_job_id] = task
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task])
            raise
        finally:
            del self._running[submission.qpu_job_id]
            self.give_back(submission.qpu_job_id)
            self._end_later()
        if task.cancelled():
            self._prewarm()
            outcome = Outcome(QpuState.CANCELLED, time.monotonic() - begun[0] if begun else 0.0)
        else:
            outcome = task.result()
        _, mock = self._devices[submission.backend]
        return replace(outcome, charged_s=0.0) if mock else outcome

    async def _simulate(self, submission: Submission, started: Callable[[], Awaitable[None]]) -> Outcome:
        begin = time.monotonic()
        try:
            await self._process.ensure()
            await started()
            begin = time.monotonic()
            facts, _ = self._devices[submission.backend]
            request = SimulationRequest(submission.program, facts.name, self._noisy)
            reply, result = await self._process.simulate(request, submission.body or b"{}")
        except SimulatorDiedError as error:
            self._prewarm()
            return Outcome(
                QpuState.FAILED,
                time.monotonic() - begin,
                result=str(error).encode(),
                reason=str(error),
                code=_DIED_CODE,
            )
        if self._noisy and self._noise is not None:
            self._noise.want(facts.name)
        if reply.ok:
            return Outcome(QpuState.COMPLETED, reply.charged_s, result=result)
        return Outcome(QpuState.FAILED, 0.0, result=result, reason=reply.reason, code=reply.code)

    async def cancel(self, qpu_job_id: str) -> None:
        """End a simulation, and with it its process; the next one is warmed up at once."""
        if task := self._running.get(qpu_job_id):
            task.cancel()

    async def charge(self, qpu_job_id: str) -> float:  # noqa: ARG002 -- its outcome told all there is.
        """Return 0: what was simulated was charged with its outcome."""
        return 0.0

    async def release(self, session_id: str) -> None:
        """Do nothing: a session holds no simulated device."""

    def conditions(self) -> tuple[Condition, ...]:
        """Return that it is well; a simulator that dies is started again by the next job."""
        return (Condition("local", "", "ok", "Simulated here.", None, len(self._running)),)

    def _prewarm(self) -> None:
        if self._prewarming is None or self._prewarming.done():
            self._prewarming = asyncio.create_task(self._warm(), name="prewarm-simulator")

    async def _warm(self) -> None:
        try:
            await self._process.ensure()
        except SimulatorDiedError as error:
            _log.error("the simulator does not start; the next job tries again", reason=str(error))
