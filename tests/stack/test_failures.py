"""Things die under a running job: nothing is lost, nothing runs twice, nothing is stuck."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from stack_control import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qonduit import Job

GATED = """\
import time
from pathlib import Path
from qiskit_serverless import Job, distribute_task, get, save_result, update_status

@distribute_task(target={"cpu": 1})
def square(n):
    return n * n

update_status(Job.MAPPING)
print("started", flush=True)
squares = get([square(n) for n in range(20)])
print("squared", flush=True)
deadline = time.monotonic() + 8
while time.monotonic() < deadline:
    squares = get([square(n) for n in range(20)])
update_status(Job.POST_PROCESSING)
save_result({"squares": squares})
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = Stack(tmp_path_factory.mktemp("failing"))
    running.up()
    yield running
    running.down()


@pytest.fixture(scope="module")
def client(stack: Stack):  # type: ignore[no-untyped-def] # noqa: ANN201 - As in conftest, for this stack.
    return stack.client()


@pytest.mark.parametrize("victim", ["rabbitmq", "gateway", "scheduler", "storage", "qpu_broker"])
def test_a_service_killed_under_a_running_job_loses_nothing(
    stack: Stack, submit: Callable[..., Job], victim: str
) -> None:
    job = submit(GATED)
    assert any("squared" in piece for piece in job.stream_logs())
    os.kill(stack.pid(victim), signal.SIGKILL)
    result = job.result(timeout=110)
    assert result == {"squares": [n * n for n in range(20)]}
    started = [entry for entry in job.timeline() if entry.status == "RUNNING"]
    assert len(started) == 1, "the job ran once: it noticed nothing"
    assert job.logs().count("started") == 1


def test_a_killed_worker_leaves_no_process_and_the_job_runs_again(stack: Stack, submit: Callable[..., Job]) -> None:
    job = submit(GATED)
    assert any("squared" in piece for piece in job.stream_logs())
    os.kill(stack.pid("worker"), signal.SIGKILL)
    assert job.result(timeout=110) == {"squares": [n * n for n in range(20)]}
    attempts = [entry.attempt for entry in job.timeline()]
    assert attempts == sorted(attempts)
    assert attempts[-1] == 2


def test_jobs_survive_down_and_up(stack: Stack, submit: Callable[..., Job]) -> None:
    done = submit("from qiskit_serverless import save_result\nsave_result({'kept': True})\n")
    assert done.result(timeout=60) == {"kept": True}
    running = submit(GATED)
    assert any("started" in piece for piece in running.stream_logs())
    stack.down()
    stack.up()
    client = stack.client()
    assert client.job(done.job_id).result(timeout=30) == {"kept": True}
    assert client.job(running.job_id).result(timeout=110) == {"squares": [n * n for n in range(20)]}


def test_nothing_is_left_after_down(tmp_path: Path, submit_to: Callable[..., Job]) -> None:
    short = Stack(tmp_path)
    short.up()
    job = submit_to(
        short.client(), "from qiskit_serverless import distribute_task, get\nget(distribute_task(abs)(-1))\n"
    )
    job.result(timeout=60)
    processes = short.processes()
    assert len(processes) >= 7
    control_groups = [Path(folder) for folder in json.loads((tmp_path / "worker" / "cgroups.json").read_text())]
    short.down()
    assert [folder for folder in control_groups if folder.exists()] == []
    # A zombie has ended: only its parent (init, for a stack in the background) has not looked yet.
    assert [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
