"""The broker, RabbitMQ and workers die; programs notice nothing, and nothing is charged twice."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psutil
import pytest
from qpu_world import SLOW, Worker, finish, start_services

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from qonduit_service_kit.testing import PrivateBroker
    from qpu_world import Services

PROGRAM = (
    """
import json
from qiskit import ClassicalRegister, QuantumCircuit
from qiskit_ibm_runtime import QiskitRuntimeService, SamplerV2
backend = QiskitRuntimeService().backend("ibm_torino")
MORE = 2
"""
    + SLOW
    + """
job = SamplerV2(mode=backend, options={"simulator": {"seed_simulator": 3}}).run([(slow,)], shots=2_000)
print(json.dumps({"id": job.job_id(), "shots": job.result()[0].data.meas.num_shots, "usage": job.usage()}))
"""
)
STEPS = [(0, "Queued"), (1, "Running"), (2, "Completed")]


@pytest.fixture
async def own(
    broker: PrivateBroker, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Services, Worker]]:
    """Services that a test may kill, and a worker on them."""
    delay: str = getattr(request, "param", "0.1")
    services = await asyncio.to_thread(start_services, broker, tmp_path, queue_delay_s=delay)
    worker = Worker(services, tmp_path)
    await worker.start()
    yield services, worker
    await worker.stop()
    services.stop()


def _seconds(services: Services) -> float:
    line = next(
        line for line in services.qpu_broker.metrics().splitlines() if line.startswith("qonduit_qpu_seconds_total{")
    )
    return float(line.split()[-1])


async def test_a_broker_killed_in_the_middle_of_a_job_is_not_noticed(own: tuple[Services, Worker]) -> None:
    services, worker = own
    sandbox = await worker.sandbox()
    program = await sandbox.start(PROGRAM)
    await sandbox.until("Running")
    services.qpu_broker.kill()
    await asyncio.to_thread(services.qpu_broker.start)
    told = (await finish(program)).told
    assert told["shots"] == 2_000
    await sandbox.over()
    assert sandbox.steps() == {told["id"]: STEPS}
    assert services.ledger("SELECT qpu_job_id, state FROM qpu_jobs") == [(told["id"], "Completed")]
    assert _seconds(services) == pytest.approx(told["usage"])
    services.qpu_broker.stop()
    await asyncio.to_thread(services.qpu_broker.start)
    assert _seconds(services) == pytest.approx(told["usage"]), "a restart neither loses nor doubles what was charged"


async def test_a_program_run_again_gets_what_it_has_paid_for(own: tuple[Services, Worker]) -> None:
    services, worker = own
    first = await worker.sandbox("job-again", attempt=1)
    before = (await first.run(PROGRAM)).told
    second = await worker.sandbox("job-again", attempt=2)
    after = (await second.run(PROGRAM)).told
    assert after == before
    assert services.ledger("SELECT COUNT(*) FROM qpu_jobs") == [(1,)]
    await second.until("Completed")
    assert second.steps() == {after["id"]: STEPS}
    assert {step.attempt for step in second.transitions} == {2}


@pytest.mark.parametrize("own", ["3600"], indirect=True)
async def test_a_program_that_lost_its_worker_while_queued_runs_its_job_anew(own: tuple[Services, Worker]) -> None:
    services, worker = own
    first = await worker.sandbox("job-lost", attempt=1)
    lost = await first.start(PROGRAM)
    await first.until("Queued")
    lost.kill()
    await lost.communicate()
    await worker.end(first)
    await first.until("Cancelled")
    services.qpu_broker.settings["queue_delay_s"] = "0.1"  # From here on nothing has to wait.
    await asyncio.to_thread(services.qpu_broker.stop)
    await asyncio.to_thread(services.qpu_broker.start)
    second = await worker.sandbox("job-lost", attempt=2)
    assert (await second.run(PROGRAM)).told["shots"] == 2_000
    states = services.ledger("SELECT state FROM qpu_jobs WHERE job_id = 'job-lost' ORDER BY position")
    assert states == [("Cancelled",), ("Completed",)]


async def test_a_simulator_that_dies_fails_its_job_and_only_that(own: tuple[Services, Worker]) -> None:
    services, worker = own
    before = await worker.sandbox()
    assert (await before.run(PROGRAM)).told["shots"] == 2_000
    sandbox = await worker.sandbox()
    with services.held_simulator():
        program = await sandbox.start(PROGRAM)
        await sandbox.until("Running")
        assert services.qpu_broker.process is not None
        (simulator,) = psutil.Process(services.qpu_broker.process.pid).children()
        simulator.kill()
        ended = await finish(program)
    assert ended.code == 1
    assert "The simulator's process ended by signal 9 in the middle of this job" in ended.err
    assert (await sandbox.until("Failed")).text
    other = await worker.sandbox()
    assert (await other.run(PROGRAM)).told["shots"] == 2_000


async def test_rabbitmq_killed_under_a_job_is_not_noticed(own: tuple[Services, Worker], broker: PrivateBroker) -> None:
    _, worker = own
    sandbox = await worker.sandbox()
    program = await sandbox.start(PROGRAM)
    await sandbox.until("Running")
    await asyncio.to_thread(broker.kill)
    await asyncio.to_thread(broker.start)
    told = (await finish(program)).told
    assert told["shots"] == 2_000
    await sandbox.until("Completed")
    assert sandbox.steps() == {told["id"]: STEPS}
