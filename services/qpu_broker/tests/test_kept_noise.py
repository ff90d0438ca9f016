"""Noise kept on disk, with the real processes: the first noisy job builds its model, the next start loads it."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest
from noisy_corners import CATALOG
from qiskit import QuantumCircuit
from qiskit_ibm_runtime import RuntimeDecoder, RuntimeEncoder
from qonduit_qpu_broker.local.devices import LocalDevices
from qonduit_qpu_broker.local.launching import Limits
from qonduit_qpu_broker.local.noise_files import NoiseFiles
from qonduit_qpu_broker.local.noise_making import NoiseMaker
from qonduit_qpu_broker.local.process import SimulatorProcess
from qonduit_qpu_broker.service import local_devices
from qonduit_qpu_broker.settings import QpuBrokerSettings
from qonduit_qpu_broker.simulator.frames import SimulationRequest
from qonduit_qpu_broker.simulator.noise_table import NoiseTable
from qonduit_qpu_broker.upstream import Submission
from qonduit_service_kit.messages import QpuState
from structlog.testing import capture_logs

pytestmark = pytest.mark.slow  # Each starts several processes that import Qiskit.

DEVICE = "ibmq_manila"
DEADLINE_S = 240.0


class Watched(NoiseFiles):
    """Real files; tells what was read, and when the maker has written one: it does so in a thread."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "noise_models", CATALOG, 1024**2)
        self.path = folder / "noise_models" / f"{DEVICE}.noise"
        self.given: list[bool] = []
        self._loop = asyncio.get_running_loop()
        self._written = asyncio.Event()

    def read(self, device: str) -> bytes:
        table = super().read(device)
        self.given.append(bool(table))
        return table

    def write(self, device: str, table: bytes) -> None:
        super().write(device, table)
        if threading.current_thread() is not threading.main_thread():
            self._loop.call_soon_threadsafe(self._written.set)

    async def written(self) -> None:
        """Return once a file was written."""
        async with asyncio.timeout(DEADLINE_S):
            await self._written.wait()


class Broker:
    """As much of one as simulates, over a folder; each use is a start."""

    def __init__(self, folder: Path) -> None:
        self.files = Watched(folder)
        limits = Limits(max_qubits=5, memory_bytes=2 * 1024**3, time_limit_s=DEADLINE_S, threads=1, hidden=(folder,))
        self.process = SimulatorProcess(limits, folder / "simulator", self.files)
        self.maker = NoiseMaker(self.files, limits, folder / "simulator")
        self.devices = LocalDevices(CATALOG, self.process, noisy=True, idle_s=DEADLINE_S, noise=self.maker)

    async def __aenter__(self) -> Self:
        await self.devices.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.devices.stop()
        assert not _simulators(), "nothing runs on"

    async def counts(self) -> dict[str, int]:
        """Run a noisy job with a seed, always the same one."""
        submission = Submission("job", "sampler", DEVICE, _body(), "2026-01-01")
        outcome = await self.devices.run(submission, _nothing)
        assert outcome.state is QpuState.COMPLETED, outcome.reason
        result = json.loads(outcome.result, cls=RuntimeDecoder)
        counts: dict[str, int] = result[0].data.meas.get_counts()
        return counts


def _body() -> bytes:
    circuit = QuantumCircuit(3)
    circuit.x([0, 1])
    circuit.cx(0, 1)
    circuit.cx(1, 2)
    circuit.measure_all()
    options = {"simulator": {"seed_simulator": 11}}
    return json.dumps({"params": {"pubs": [(circuit, None, 4000)], "options": options}}, cls=RuntimeEncoder).encode()


def _simulators() -> list[str]:
    """Return the processes that this one started to simulate, or to make a table."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_bytes().split(b"\0")
            if b"qonduit_qpu_broker.simulator" in command and str(os.getpid()).encode() in command:
                found.append(process.name)
    return found


async def _nothing(_at: float) -> None:
    """Nobody wants to know when it starts."""


async def test_what_the_first_noisy_job_builds_later_starts_load(tmp_path: Path) -> None:
    async with Broker(tmp_path) as broker:
        built = await broker.counts()
        assert broker.files.given == [False]
        await broker.files.written()
        assert await broker.counts() == built, "the running simulator is given it, too"
        assert broker.files.given == [False, True]
    assert len(built) > 1, "there is noise to compare"

    async with Broker(tmp_path) as broker:
        assert await broker.counts() == await broker.counts() == built
        assert broker.files.given == [True], "once for each process"


async def test_a_damaged_file_is_built_around_and_made_again(tmp_path: Path) -> None:
    async with Broker(tmp_path) as broker:
        broker.files.write(DEVICE, b"table")
        broker.files.path.write_bytes(broker.files.path.read_bytes()[:-1])
        with capture_logs() as lines:
            assert await broker.counts()
        assert broker.files.given == [False]
        assert [line["event"] for line in lines if line["log_level"] == "warning"] == [
            "a kept noise model does not fit; it is made again"
        ]
        await broker.files.written()
        assert NoiseTable(broker.files.read(DEVICE))


async def test_a_table_that_the_simulator_can_not_read_is_dropped_and_its_job_runs(tmp_path: Path) -> None:
    async with Broker(tmp_path) as broker:
        broker.files.write(DEVICE, b"whole, as its digest says, and no table")
        with capture_logs() as lines:
            assert await broker.counts()
        warned: list[Any] = [line for line in lines if line["log_level"] == "warning"]
        assert len(warned) == 1
        assert "BadZipFile" in warned[0]["reason"] or "pickle" in warned[0]["reason"]


async def test_a_maker_that_fails_is_told_of_once_and_keeps_nothing(tmp_path: Path) -> None:
    async with Broker(tmp_path) as broker:
        with capture_logs() as lines:
            broker.maker.want("ibm_nowhere")
            broker.maker.want("ibm_nowhere")
            broker.maker.want(DEVICE)
            await broker.files.written()
        warned = [line for line in lines if line["log_level"] == "warning"]
        assert [line["device"] for line in warned] == ["ibm_nowhere"]
        assert "UnknownDeviceError" in warned[0]["reason"]
        assert broker.files.path.exists()


async def test_a_broker_that_stops_takes_the_maker_with_it(tmp_path: Path) -> None:
    async with Broker(tmp_path) as broker:
        broker.maker.want("ibm_torino")
        async with asyncio.timeout(DEADLINE_S):
            while not _simulators():  # noqa: ASYNC110 -- nothing tells of it.
                await asyncio.sleep(0.02)
    assert not broker.files.path.parent.exists()


async def test_a_job_without_noise_is_given_none(tmp_path: Path) -> None:
    async with Broker(tmp_path) as broker:
        reply, _ = await broker.process.simulate(SimulationRequest("sampler", DEVICE, noisy=False), _body())
        assert reply.ok
        assert broker.files.given == []


@pytest.mark.parametrize(("room", "kept"), [(0, False), (1024**2, True)])
async def test_the_settings_say_whether_noise_is_kept(tmp_path: Path, room: int, *, kept: bool) -> None:
    devices = local_devices(
        QpuBrokerSettings(data_dir=tmp_path, simulator_noise="noisy", simulator_noise_cache_bytes=room)
    )
    await devices.start()
    try:
        outcome = await devices.run(Submission("job", "sampler", DEVICE, _body(), "2026-01-01"), _nothing)
        assert outcome.state is QpuState.COMPLETED, outcome.reason
        assert ("make-noise-tables" in {task.get_name() for task in asyncio.all_tasks()}) is kept
    finally:
        await devices.stop()
    assert not _simulators()
