"""Tasks: a driver's calls run in executors that the scheduler grants, and their cpu is booked to the stage."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from qonduit_service_kit.bus import worker_inbox
from qonduit_service_kit.messages import (
    DriverWaiting,
    ExecutorGranted,
    LeaseEnded,
    LeaseRevoked,
    QpuState,
    QpuTransition,
    Reason,
    Shape,
    Stage,
    StopAttempt,
    TaskDemand,
    WorkerHeartbeat,
)
from qonduit_service_kit.testing import halt
from scripted_cluster import MIB, PATIENCE_S, ScriptedCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_service_kit.bus import Delivery
    from qonduit_service_kit.messages import LeaseStatus
    from qonduit_service_kit.testing import PrivateBroker

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROGRAM = f"""
import time
from qiskit_serverless import Job, distribute_task, get, put, save_result, update_status
from beside import double

@distribute_task(target={{"cpu": 1, "mem": {128 * MIB}}})
def burn(number, table, seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    print("burnt", number)
    return double(number) + len(table)

update_status(Job.MAPPING)
table = put(list(range(100_000)))
references = [burn(number, table, 0.1) for number in range(5)]
update_status(Job.POST_PROCESSING)
save_result(get(references))
"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster(broker: PrivateBroker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ScriptedCluster]:
    url = broker.vhost_url("worker-fan-out")
    preload = '["qonduit.program.executor", "qonduit.program.runner", "qonduit.job"]'
    async with ScriptedCluster.running(url, tmp_path_factory.mktemp("cluster"), PRELOAD=preload) as made:
        yield made


async def test_tasks_run_in_executors_and_come_back(cluster: ScriptedCluster) -> None:
    files = {"beside.py": "def double(number):\n    return 2 * number\n"}
    job = await cluster.run(PROGRAM, files=files, qpu_budget_s=60.0, user_qpu_budget_s=600.0)
    leases = await job.grant_executors(2)
    assert await job.result() == [100_000 + 2 * number for number in range(5)]
    end = await job.finished()
    used = {usage.stage: usage.cpu_s for usage in end.usage}
    # Booked to the stage in which they were submitted, however late they ran.
    assert used[Stage.MAPPING] >= 0.5
    assert used[Stage.POST_PROCESSING] < 0.5
    demands = [demand for demand in cluster.of(TaskDemand) if demand.job_id == job.spec.job_id]
    assert {(demand.qpu_budget_s, demand.user_qpu_budget_s) for demand in demands} == {(60.0, 600.0)}
    log = await job.log()
    assert {f"[task {number} burn] burnt {number}" for number in range(5)} <= set(log.splitlines())
    for lease_id in leases:
        await cluster.send(LeaseRevoked(cluster.term, lease_id, "done"))
    await cluster.heartbeat(leases=0, after=len(cluster.of(WorkerHeartbeat)))


async def test_a_driver_that_waits_lends_its_cpu(cluster: ScriptedCluster) -> None:
    # It does not end by itself: of a driver that is over nobody needs to hear that it waits no more.
    program = PROGRAM.replace("save_result(get(references))", "get(references)\ntime.sleep(600)")
    job = await cluster.run(program, files={"beside.py": "def double(number):\n    return number\n"})

    def told() -> list[bool]:
        return [told.waiting for told in cluster.of(DriverWaiting) if told.lease_id == job.lease_id]

    await cluster.until(lambda: told() or None, "waiting")
    assert told() == [True]
    (lease_id,) = await job.grant_executors(1)
    await cluster.until(lambda: True if False in told() else None, "the end of the wait")
    await cluster.send(LeaseRevoked(cluster.term, lease_id, "done"))
    await cluster.send(StopAttempt(job.spec.job_id, job.spec.attempt, Reason.CANCELED, grace_s=0.0))
    await job.lease_ended()


async def test_a_task_over_its_memory_fails_and_says_so(cluster: ScriptedCluster) -> None:
    job = await cluster.run(
        "from qiskit_serverless import distribute_task, get\n"
        f'@distribute_task(target={{"mem": {96 * MIB}}})\n'
        "def eat():\n    return len([bytearray(1024**2) for _ in range(4096)])\n"
        "get(eat())\n"
    )
    granting = asyncio.create_task(job.grant_executors(1))
    end = await job.finished()
    await granting
    assert end.reason is Reason.PROGRAM_ERROR
    assert "96 MiB" in end.text


async def test_an_executor_that_is_revoked_while_its_files_are_on_their_way_ends_at_once(
    cluster: ScriptedCluster,
) -> None:
    spec = await cluster.spec("pass")
    storage = cluster.storage.process
    assert storage is not None
    halt(storage.pid)
    try:
        grant = ExecutorGranted(
            cluster.term, "early", "job", 1, "ada", Shape(1000, 128 * MIB), cluster.worker_id, spec.storage_ticket
        )
        await cluster.send(grant)
        await cluster.until(
            lambda: next((beat for beat in cluster.of(WorkerHeartbeat) if "early" in map(_lease, beat.leases)), None),
            "the lease",
        )
        await cluster.send(LeaseRevoked(cluster.term, "early", "nobody wants it", now=True))
        ended = await cluster.until(
            lambda: next((ended for ended in cluster.of(LeaseEnded) if ended.lease_id == "early"), None), "its end"
        )
    finally:
        storage.send_signal(signal.SIGCONT)
    assert "revoked" in ended.cause


async def test_the_end_of_a_qpu_job_reaches_the_driver_though_its_executor_is_gone(cluster: ScriptedCluster) -> None:
    heard: asyncio.Queue[object] = asyncio.Queue()

    async def hear(delivery: Delivery) -> None:
        await heard.put(delivery.message)

    home = worker_inbox("driver-worker")
    await cluster.bus.declare(home)
    subscription = await cluster.bus.consume(home, hear)
    try:
        spec = await cluster.spec("pass")
        grant = ExecutorGranted(
            cluster.term, "gone", "far-job", 2, "ada", Shape(1000, 128 * MIB), "driver-worker", spec.storage_ticket
        )
        await cluster.send(grant)
        await cluster.send(LeaseRevoked(cluster.term, "gone", "nobody wants it", now=True))
        await cluster.until(
            lambda: next((ended for ended in cluster.of(LeaseEnded) if ended.lease_id == "gone"), None), "its end"
        )
        step = QpuTransition("q1", "far-job", 2, 3, QpuState.COMPLETED, 1.0, "ibm_torino", qpu_seconds=0.5)
        await cluster.send(step)
        async with asyncio.timeout(PATIENCE_S):
            while await heard.get() != step:
                pass
    finally:
        await subscription.cancel()
        await cluster.bus.delete(home)


def _lease(status: LeaseStatus) -> str:
    return status.lease_id
