"""When the simulator's process is there: from when a program looks at devices until none has for a while."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from qiskit import QuantumCircuit
from qiskit_ibm_runtime import RuntimeEncoder
from qonduit_qpu_broker.local.catalog import DeviceCatalog
from qonduit_qpu_broker.local.devices import LocalDevices
from qonduit_qpu_broker.local.launching import Limits
from qonduit_qpu_broker.local.process import SimulatorProcess
from qonduit_qpu_broker.upstream import Submission
from qonduit_service_kit.messages import QpuState

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


class Watched(SimulatorProcess):
    """A real process; tells when it has started and ended."""

    def __init__(self, scratch: Path) -> None:
        super().__init__(Limits(max_qubits=24, memory_bytes=2 * 1024**3, time_limit_s=200, threads=1), scratch)
        self.steps: asyncio.Queue[str] = asyncio.Queue()

    async def _ready(self) -> asyncio.subprocess.Process:
        before = self._process
        process = await super()._ready()
        if process is not before:
            self.steps.put_nowait("started")
        return process

    async def _end(self) -> None:
        there = self._process is not None
        await super()._end()
        if there:
            self.steps.put_nowait("ended")


def submission() -> Submission:
    circuit = QuantumCircuit(2, 2)
    circuit.h(0)
    circuit.measure([0, 1], [0, 1])
    body = json.dumps({"params": {"pubs": [(circuit, None, 10)]}}, cls=RuntimeEncoder).encode()
    return Submission("job", "sampler", "ibm_torino", body, "2026-01-01")


async def nothing(_at: float) -> None:
    """Nobody wants to know when it starts."""


async def test_the_simulator_runs_while_programs_look_at_devices(tmp_path: Path) -> None:
    process = Watched(tmp_path)
    devices = LocalDevices(DeviceCatalog(), process, noisy=False, idle_s=0.1)
    await devices.start()
    assert devices.devices()
    assert process.steps.empty(), "nobody has asked for it"
    devices.expect()
    assert await process.steps.get() == "started"
    assert await process.steps.get() == "ended"
    outcome = await devices.run(submission(), nothing)
    assert outcome.state is QpuState.COMPLETED
    assert await process.steps.get() == "started"
    assert await process.steps.get() == "ended"
    await devices.stop()
    assert process.steps.empty()
