"""The broker on the fake of IBM's service: what programs need there, and what they are."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fake_ibm import FakeIbm, Instance
from qpu_world import PROGRAM_TIMEOUT_S, Service, Services, Worker, start_services

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from qonduit_service_kit.testing import PrivateBroker
    from qpu_world import Sandbox

KEY = "ibm-key-of-the-broker"
PREPARE = """
import json
from qiskit import QuantumCircuit
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime import Batch, EstimatorV2, QiskitRuntimeService, SamplerV2, Session
service = QiskitRuntimeService()
backend = service.backend("ibmq_manila")
bell = QuantumCircuit(2)
bell.h(0)
bell.cx(0, 1)
bell.measure_all()
isa = generate_preset_pass_manager(optimization_level=1, backend=backend).run(bell)
"""
"""What each program begins with."""


SAMPLER = (
    PREPARE
    + """
import sys
for line in sys.stdin:
    wanted = json.loads(line)
    sampler = SamplerV2(mode=backend)
    sampler.options.environment.job_tags = ["mine"]
    job = sampler.run([isa], shots=wanted["shots"])
    told = {"id": job.job_id()}
    try:
        told["shots"] = sum(job.result()[0].data.meas.get_counts().values())
    except Exception as error:
        told["error"] = f"{type(error).__name__}: {error}"
    told |= {"status": job.status(), "tags": job.tags, "usage": job.usage()}
    print(json.dumps(told), flush=True)
"""
)
"""Runs a job for each line that it reads."""


class Sampler:
    """A program that runs jobs one after another, so that each need not be a program of its own."""

    def __init__(self, sandbox: Sandbox, process: asyncio.subprocess.Process) -> None:
        self.sandbox = sandbox
        self._process = process

    async def run(self, shots: int) -> dict[str, Any]:
        """Run one job to its end, and return what its program saw."""
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise AssertionError("the program has no pipes")
        process.stdin.write(json.dumps({"shots": shots}).encode() + b"\n")
        async with asyncio.timeout(PROGRAM_TIMEOUT_S):
            line = await process.stdout.readline()
        if not line:
            raise AssertionError(f"the program ended:\n{(await process.communicate())[1].decode()}")
        told: dict[str, Any] = json.loads(line)
        return told

    async def stop(self) -> None:
        """End the program."""
        self._process.kill()
        await self._process.communicate()


@dataclass
class IbmWorld:
    """All of it."""

    ibm: FakeIbm
    services: Services
    worker: Worker
    folder: Path
    account: dict[str, Any] = field(default_factory=dict)

    @property
    def broker(self) -> Service:
        """The broker's process."""
        return self.services.qpu_broker

    def sign_in(self, *accounts: dict[str, Any]) -> None:
        """Write the accounts file."""
        write_accounts(self.folder, *accounts)

    def charges(self) -> dict[str, float]:
        """Return what the broker has booked, by charge."""
        return dict(self.services.ledger("SELECT charge_id, qpu_seconds FROM charges"))

    async def sampler(self) -> Sampler:
        """Start a program that runs jobs."""
        sandbox = await self.worker.sandbox()
        return Sampler(sandbox, await sandbox.start(SAMPLER))

    async def restart(self) -> None:
        """Kill the broker and start it again."""
        self.broker.kill()
        await asyncio.to_thread(self.broker.start)


def write_accounts(folder: Path, *accounts: dict[str, Any]) -> Path:
    """Write an accounts file as it must be."""
    path = folder / "accounts.json"
    path.touch(0o600)
    path.write_text(json.dumps({"accounts": accounts}))
    return path


@asynccontextmanager
async def ibm_world(
    broker: PrivateBroker, folder: Path, *, account: dict[str, Any] | None = None, plan: str = "paygo", **settings: str
) -> AsyncIterator[IbmWorld]:
    """Start the fake service, a broker that uses it, and a worker."""
    ibm = FakeIbm(Instance(plan=plan, api_keys=frozenset({KEY})))
    await ibm.start()
    whole = {"name": "lab", "token": KEY, "url": ibm.url, "submissions_a_minute": 1000} | (account or {})
    path = write_accounts(folder, whole)
    options = {"ibm_accounts_file": str(path), "ibm_poll_s": "0.05", "ibm_doubt_s": "1", "ibm_results_s": "600"}
    services = await asyncio.to_thread(start_services, broker, folder, ibm.hosts(), **(options | settings))
    worker = Worker(services, folder)
    await worker.start()
    try:
        yield IbmWorld(ibm, services, worker, folder, whole)
    finally:
        await worker.stop()
        services.stop()
        await ibm.stop()
