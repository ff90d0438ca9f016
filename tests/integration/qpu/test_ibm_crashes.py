"""Processes die around a job that is at IBM: its program notices nothing, and it is paid once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from ibm_world import PREPARE, ibm_world
from qonduit_service_kit.messages import QPU_BROKER, ProgramEnded
from qpu_world import finish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ibm_world import IbmWorld
    from qonduit_service_kit.testing import PrivateBroker

PROGRAM = (
    PREPARE
    + """
with Session(backend=backend) as session:
    job = SamplerV2(mode=session, options={"simulator": {"seed_simulator": 3}}).run([isa], shots=100)
    print(json.dumps({"id": job.job_id(), "counts": job.result()[0].data.meas.get_counts(), "status": job.status()}))
"""
)
SWEEP = (
    PREPARE
    + """
from qiskit.circuit import Parameter, ParameterVector
theta, phi = Parameter("theta"), ParameterVector("phi", 3)
swept = QuantumCircuit(1)
swept.rx(theta + phi[2], 0)
swept.rz(phi[0] * phi[1], 0)
swept.measure_all()
isa = generate_preset_pass_manager(optimization_level=1, backend=backend).run(swept)
with Session(backend=backend) as session:
    job = SamplerV2(mode=session).run([(isa, [[0.1, 0.2, 0.3, 0.4]])], shots=100)
    job.result()
    print(json.dumps({"id": job.job_id(), "status": job.status()}))
"""
)
"""Qiskit gives each parameter a random id."""
STEPS = [(0, "Queued"), (1, "Running"), (2, "Completed")]


@pytest.fixture
async def world(broker: PrivateBroker, tmp_path: Path) -> AsyncIterator[IbmWorld]:
    async with ibm_world(broker, tmp_path) as made:
        yield made


async def paid_once(world: IbmWorld) -> None:
    """Return once the session is closed: one job, one session, and one charge for the session."""
    (job,) = world.ibm.quantum.jobs.values()
    session = world.ibm.quantum.sessions[job.session_id]
    running = world.ibm.quantum.running
    async with asyncio.timeout(120), running.changed:
        await running.changed.wait_for(lambda: session.closed_at is not None)
    assert all(one is session or one.activated_at is None for one in world.ibm.quantum.sessions.values())


async def test_the_broker_killed_while_a_job_runs(world: IbmWorld) -> None:
    sandbox = await world.worker.sandbox()
    async with world.ibm.quantum.running.held(world.ibm.quantum.running.run_open):
        program = await sandbox.start(PROGRAM)
        await sandbox.until("Running")
        await world.restart()
    told = (await finish(program)).told
    assert (sum(told["counts"].values()), told["status"]) == (100, "DONE")
    await sandbox.until("Completed")
    assert sandbox.steps() == {told["id"]: STEPS}
    await paid_once(world)


async def test_rabbitmq_killed_while_a_job_runs(world: IbmWorld, broker: PrivateBroker) -> None:
    sandbox = await world.worker.sandbox()
    async with world.ibm.quantum.running.held(world.ibm.quantum.running.run_open):
        program = await sandbox.start(PROGRAM)
        await sandbox.until("Running")
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)
    assert (await finish(program)).told["status"] == "DONE"
    await sandbox.until("Completed")
    await paid_once(world)


@pytest.mark.parametrize("program", [PROGRAM, SWEEP], ids=["numbers", "parameters"])
async def test_a_program_that_lost_its_worker_gets_the_job_that_runs(world: IbmWorld, program: str) -> None:
    first = await world.worker.sandbox("job-lost", attempt=1)
    async with world.ibm.quantum.running.held(world.ibm.quantum.running.run_open):
        lost = await first.start(program, as_driver=True)
        await first.until("Running")
        lost.kill()
        await lost.communicate()
        await world.worker.end(first)
        second = await world.worker.sandbox("job-lost", attempt=2)
        again = await second.start(program, as_driver=True)
        await second.until("Running")
    told = (await finish(again)).told
    assert told["status"] == "DONE"
    await second.until("Completed")
    assert second.steps() == {told["id"]: STEPS}
    await paid_once(world)


async def test_a_job_that_is_over_leaves_nothing_running_at_ibm(world: IbmWorld) -> None:
    sandbox = await world.worker.sandbox()
    async with world.ibm.quantum.running.held(world.ibm.quantum.running.run_open):
        program = await sandbox.start(PROGRAM)
        await sandbox.until("Running")
        program.kill()
        await program.communicate()
        over = ProgramEnded(sandbox.context.job_id, sandbox.context.attempt, last=True)
        await world.worker.bus.publish(QPU_BROKER, over)
        assert (await sandbox.until("Cancelled")).text == "Its program ended."
    (job,) = world.ibm.quantum.jobs.values()
    assert job.status == "Cancelled"
    await paid_once(world)
