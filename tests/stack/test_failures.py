"""Things die under a running job: nothing is lost, nothing runs twice, nothing is stuck."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from stack_control import COMMAND_TIMEOUT_S, LEAN, TOLD, Stack, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qonduit import Job, ServerlessClient

GATED = (
    TOLD
    + """\
from qiskit_serverless import Job, distribute_task, get, get_arguments, save_result, update_status

@distribute_task(target={"cpu": 1})
def square(n):
    return n * n

update_status(Job.MAPPING)
print("started", flush=True)
squares = get([square(n) for n in range(20)])
print("squared", flush=True)
while not is_told(get_arguments()["until"]):
    squares = get([square(n) for n in range(20)])
update_status(Job.POST_PROCESSING)
save_result({"squares": get([square(n) for n in range(20)])})
"""
)
SQUARES = {"squares": [n * n for n in range(20)]}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    # A machine that is busy starting RabbitMQ again should not take its worker for dead.
    patient = {f"QONDUIT_{service}_LEASE_TTL_S": "600" for service in ("WORKER", "SCHEDULER")}
    running = Stack(tmp_path_factory.mktemp("failing"), environment=LEAN | patient)
    running.up()
    yield running
    running.down()


@pytest.fixture(scope="module")
def client(stack: Stack) -> ServerlessClient:
    return stack.client()


@pytest.mark.parametrize("victim", ["rabbitmq", "gateway", "scheduler", "storage", "qpu_broker"])
def test_a_service_killed_under_a_running_job_loses_nothing(
    stack: Stack, client: ServerlessClient, submit: Callable[..., Job], victim: str, tmp_path: Path
) -> None:
    job = submit(GATED, until=f"{victim}.tar")
    assert any("squared" in piece for piece in job.stream_logs())
    kill(stack, victim)
    tell(client, tmp_path, f"{victim}.tar")
    assert job.result(timeout=300) == SQUARES
    started = [entry for entry in job.timeline() if entry.status == "RUNNING"]
    assert len(started) == 1, "the job ran once: it noticed nothing"
    assert job.logs().count("started") == 1


def kill(stack: Stack, service: str) -> None:
    """Kill a service, and return once it is back."""
    pid = stack.pid(service)
    os.kill(pid, signal.SIGKILL)
    stack.until_restarted(service, pid)


def test_a_killed_worker_leaves_no_process_and_the_job_runs_again(
    stack: Stack, client: ServerlessClient, submit: Callable[..., Job], tmp_path: Path
) -> None:
    job = submit(GATED, until="worker.tar")
    assert any("squared" in piece for piece in job.stream_logs())
    kill(stack, "worker")
    tell(client, tmp_path, "worker.tar")
    assert job.result(timeout=300) == SQUARES
    attempts = [entry.attempt for entry in job.timeline()]
    assert attempts == sorted(attempts)
    assert attempts[-1] == 2


def test_jobs_survive_down_and_up(stack: Stack, submit: Callable[..., Job], tmp_path: Path) -> None:
    done = submit("from qiskit_serverless import save_result\nsave_result({'kept': True})\n")
    assert done.result(timeout=300) == {"kept": True}
    running = submit(GATED, until="up.tar")
    assert any("started" in piece for piece in running.stream_logs())
    stack.down()
    stack.up()
    client = stack.client()
    tell(client, tmp_path, "up.tar")
    assert client.job(done.job_id).result(timeout=300) == {"kept": True}
    assert client.job(running.job_id).result(timeout=300) == SQUARES


def test_nothing_is_left_after_down(tmp_path: Path, submit_to: Callable[..., Job]) -> None:
    short = Stack(tmp_path, environment=LEAN)
    short.up()
    job = submit_to(
        short.client(), "from qiskit_serverless import distribute_task, get\nget(distribute_task(abs)(-1))\n"
    )
    job.result(timeout=300)
    processes = short.processes()
    assert len(processes) >= 7
    control_groups = [Path(folder) for folder in json.loads((tmp_path / "worker" / "cgroups.json").read_text())]
    short.down()
    assert [folder for folder in control_groups if folder.exists()] == []
    # What a service started may end a moment after it.
    deadline = time.monotonic() + COMMAND_TIMEOUT_S
    while left := [process for process in processes if runs(process)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def runs(process: psutil.Process) -> bool:
    """Whether it has not ended; of a zombie only its parent (init, for a stack in the background) has not heard yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
