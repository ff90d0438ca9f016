"""What is lost when a part dies under a running job: nothing but, at most, the attempt, and that is said."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.request
import uuid
from typing import TYPE_CHECKING

import psutil
import pytest
from qonduit_service_kit.messages import (
    AttemptLost,
    EventKind,
    LeaseEnded,
    Reason,
    StopAttempt,
    WorkerHeartbeat,
    WorkerStopped,
)
from qonduit_service_kit.testing import halt, new_broker
from scripted_cluster import MIB, PATIENCE_S, ScriptedCluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from qonduit_service_kit.testing import PrivateBroker

SLEEPS = "import time\nprint('begun')\ntime.sleep(600)\n"
COUNTS = (
    "import os, time\nfrom qonduit.program import save_result, update_status\n"
    "update_status('MAPPING')\n"
    "for number in range(60):\n    print(f'line {number}')\n"
    "    if number in (20, 40):\n        open(f'at-{number}', 'w').close()\n"
    "        while not os.path.exists(f'go-{number}'): time.sleep(0.01)\n"
    "update_status('POST_PROCESSING')\n"
    "save_result('counted')\n"
)
"""Prints 60 lines, and waits twice until it is told to go on."""
OUTLASTS = {"LEASE_TTL_S": "600"}
"""For a worker that must not take itself for cut off while RabbitMQ starts again, however long that takes."""


@pytest.fixture(scope="module")
def mortal_broker() -> Iterator[PrivateBroker]:
    broker = new_broker()
    yield broker
    broker.stop()


@pytest.fixture
def own_broker(mortal_broker: PrivateBroker) -> PrivateBroker:
    """One that these tests may kill; it runs at the beginning of each."""
    mortal_broker.start()
    return mortal_broker


@pytest.fixture
def own_url(own_broker: PrivateBroker) -> str:
    """A vhost of it that this test alone uses."""
    return own_broker.vhost_url(f"t-{uuid.uuid4().hex[:12]}")


def family(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


async def gone(processes: list[psutil.Process]) -> None:
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, PATIENCE_S)
    assert alive == []


def pid_of(cluster: ScriptedCluster) -> int:
    assert cluster.worker.process is not None
    return cluster.worker.process.pid


async def test_a_killed_worker_leaves_no_process_and_the_next_one_starts_clean(bus_url: str, tmp_path: Path) -> None:
    async with ScriptedCluster.running(bus_url, tmp_path) as cluster:
        job = await cluster.run("import os\nfor _ in range(3):\n    os.fork() or os.setsid()\n" + SLEEPS)
        await job.logged("begun\n" * 8)
        processes = family(pid_of(cluster))
        assert len(processes) > 8
        first = cluster.of(WorkerHeartbeat)[-1]
        cluster.worker.kill()
        await gone(processes)

        # A grant for the dead one is not taken up by the next one, nor are the dead one's folders kept.
        late = await cluster.grant(await cluster.spec("print('late')\n"))
        seen = len(cluster.of(WorkerHeartbeat))
        await cluster.worker.start()
        beat = await cluster.heartbeat(after=seen)
        assert beat.worker_id == first.worker_id
        assert beat.incarnation != first.incarnation
        assert beat.leases == ()
        again = await cluster.run("print('again')\n")
        await again.finished()
        assert late.events == []
        rooms = list((tmp_path / "qonduit_worker" / "sandboxes").iterdir())
        assert len(rooms) <= 1


async def test_a_worker_that_is_told_to_stop_says_goodbye(bus_url: str, tmp_path: Path) -> None:
    async with ScriptedCluster.running(bus_url, tmp_path) as cluster:
        job = await cluster.run(SLEEPS)
        await job.logged("begun")
        processes = family(pid_of(cluster))
        incarnation = cluster.of(WorkerHeartbeat)[-1].incarnation
        assert await asyncio.to_thread(cluster.worker.stop) == 0
        goodbye = await cluster.until(lambda: next(iter(cluster.of(WorkerStopped)), None), "a goodbye")
        assert goodbye.incarnation == incarnation
        assert cluster.of(LeaseEnded) == [], "to the scheduler, a lease that ends is a job that is over"
        assert EventKind.FINISHED not in {event.kind for event in job.events}
        await gone(processes)


async def test_a_restart_of_rabbitmq_loses_nothing(own_broker: PrivateBroker, own_url: str, tmp_path: Path) -> None:
    async with ScriptedCluster.running(own_url, tmp_path, **OUTLASTS) as cluster:
        job = await cluster.run(COUNTS)
        await job.logged("line 20")
        await asyncio.to_thread(own_broker.kill)
        cluster.let_go("go-20")
        await asyncio.to_thread(own_broker.start)
        cluster.let_go("go-40")
        assert await job.result() == "counted"
        assert [event.sequence for event in job.events] == list(range(1, len(job.events) + 1))
        assert (await job.log()).splitlines() == [f"line {number}" for number in range(60)]


async def test_tasks_that_rabbitmq_forgot_are_sent_again(
    own_broker: PrivateBroker, own_url: str, tmp_path: Path
) -> None:
    async with ScriptedCluster.running(own_url, tmp_path, **OUTLASTS) as cluster:
        job = await cluster.run(
            "from qiskit_serverless import distribute_task, get, save_result\n"
            "@distribute_task()\ndef square(number):\n    return number**2\n"
            "references = [square(number) for number in range(3)]\n"
            "print('submitted')\n"
            "save_result(get(references))\n"
        )
        await job.logged("submitted")
        await asyncio.to_thread(own_broker.kill)
        await asyncio.to_thread(own_broker.start)
        await job.grant_executors(1)
        assert await job.result() == [0, 1, 4]


async def test_a_restart_of_storage_loses_nothing(bus_url: str, tmp_path: Path) -> None:
    async with ScriptedCluster.running(bus_url, tmp_path) as cluster:
        job = await cluster.run(COUNTS)
        await job.logged("line 20")
        cluster.storage.kill()
        cluster.let_go("go-20")
        async with asyncio.timeout(PATIENCE_S):
            while not any((room / "at-40").exists() for room in cluster.rooms()):  # noqa: ASYNC110 - Nobody says so.
                await asyncio.sleep(0.02)
        cluster.let_go("go-40")
        await cluster.storage.start()
        assert await job.result() == "counted"
        assert (await job.log()).splitlines() == [f"line {number}" for number in range(60)]


async def test_a_worker_that_is_cut_off_ends_what_it_runs(
    own_broker: PrivateBroker, own_url: str, tmp_path: Path
) -> None:
    async with ScriptedCluster.running(own_url, tmp_path, LEASE_TTL_S="20") as cluster:
        job = await cluster.run(SLEEPS)
        await job.logged("begun")
        (program,) = [child for child in family(pid_of(cluster)) if child.uids().real != os.getuid()][-1:]
        first = cluster.of(WorkerHeartbeat)[-1]
        await asyncio.to_thread(own_broker.kill)
        await gone([program])
        await asyncio.to_thread(own_broker.start)
        beat = await cluster.until(
            lambda: next((beat for beat in cluster.of(WorkerHeartbeat) if beat.incarnation != first.incarnation), None),
            "a new life",
        )
        assert beat.leases == ()
        assert "fenced_off" in cluster.worker.log()
        assert EventKind.FINISHED not in {event.kind for event in job.events}


async def test_a_worker_that_stood_still_begins_a_new_life(bus_url: str, tmp_path: Path) -> None:
    async with ScriptedCluster.running(bus_url, tmp_path, LEASE_TTL_S="20") as cluster:
        job = await cluster.run(SLEEPS)
        await job.logged("begun")
        first = cluster.of(WorkerHeartbeat)[-1]
        halt(pid_of(cluster))
        await asyncio.sleep(21)  # The time that passes is what is tested.
        os.kill(pid_of(cluster), signal.SIGCONT)
        await cluster.until(
            lambda: next((beat for beat in cluster.of(WorkerHeartbeat) if beat.incarnation != first.incarnation), None),
            "a new life",
        )
        assert "stood still" in cluster.worker.log()


async def test_a_dead_zygote_is_no_fault_of_the_program(bus_url: str, tmp_path: Path) -> None:
    async with ScriptedCluster.running(bus_url, tmp_path) as cluster:
        job = await cluster.run(SLEEPS)
        await job.logged("begun")
        zygote = next(child for child in family(pid_of(cluster)) if "qonduit_worker.zygote" in child.cmdline())
        zygote.kill()
        lost = await cluster.until(lambda: next(iter(cluster.of(AttemptLost)), None), "the loss of the attempt")
        assert (lost.job_id, lost.attempt, lost.worker_id) == (job.spec.job_id, 1, cluster.worker_id)
        assert EventKind.FINISHED not in {event.kind for event in job.events}
        await job.lease_ended()
        again = await cluster.run("print('again')\n")
        assert (await again.finished()).reason is Reason.NONE


async def test_output_without_end_neither_fills_memory_nor_holds_the_end_up(bus_url: str, tmp_path: Path) -> None:
    async with ScriptedCluster.running(bus_url, tmp_path) as cluster:
        job = await cluster.run("line = 'x' * 1000\nwhile True: print(line)\n")
        async with asyncio.timeout(3 * PATIENCE_S):
            while await asyncio.to_thread(printed_bytes, cluster) < 300 * MIB:  # noqa: ASYNC110 - A counter tells nobody.
                await asyncio.sleep(0.1)
        await cluster.send(StopAttempt(job.spec.job_id, job.spec.attempt, Reason.CANCELED, grace_s=0.0))
        end = await job.finished()
        assert end.reason is Reason.CANCELED
        assert psutil.Process(pid_of(cluster)).memory_info().rss < 300 * MIB
        assert "x" * 1000 in await job.log()


def printed_bytes(cluster: ScriptedCluster) -> float:
    """Return how much of what programs printed has come to the worker."""
    port = json.loads(cluster.worker.ready_file.read_text())["metrics_port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text: str = answer.read().decode()
    lines = (line.split() for line in text.splitlines())
    return next(float(words[1]) for words in lines if words[:1] == ["qonduit_worker_log_bytes_total"])
