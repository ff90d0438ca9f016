"""Operators take a worker out of service and back, on a stack of two."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from stack_control import COMMAND_TIMEOUT_S, LEAN, TOLD, Stack, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qonduit import Job, ServerlessClient

WAITS = (
    TOLD
    + """\
from qiskit_serverless import distribute_task, get, save_result

@distribute_task(target={"cpu": 1, "mem": 2**28})
def square(n):
    return n * n

print("begun", flush=True)
while not is_told("draining.tar"):
    get([square(n) for n in range(4)])
save_result(get([square(n) for n in range(4)]))
"""
)
QUICK = "from qiskit_serverless import save_result\nsave_result('ran')\n"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = Stack(tmp_path_factory.mktemp("two-workers"), ("--workers", "2"), LEAN)
    running.up()
    yield running
    running.down()


@pytest.fixture(scope="module")
def client(stack: Stack) -> ServerlessClient:
    return stack.client()


def states(stack: Stack) -> dict[str, str]:
    """Each worker's state, as the command shows it."""
    lines = stack.qonduit("workers").stdout.splitlines()[1:]
    return {line.split()[0]: line.split()[2] for line in lines}


def until_state(stack: Stack, worker_id: str, state: str) -> None:
    """Return once a worker has a state."""
    deadline = time.monotonic() + COMMAND_TIMEOUT_S
    while (found := states(stack))[worker_id] != state:
        assert time.monotonic() < deadline, found


def home(job: Job) -> str:
    """The worker that a job's last attempt was placed on."""
    return [entry.text.removeprefix("on worker ") for entry in job.timeline() if entry.text.startswith("on worker ")][
        -1
    ]


def service_of(stack: Stack, worker_id: str) -> str:
    """The name of a worker's process in the stack."""
    for name in stack.services:
        kept = stack.data_dir / name / "worker-id"
        if kept.exists() and kept.read_text().strip() == worker_id:
            return name
    raise AssertionError(f"{worker_id} is none of {list(stack.services)}")


def test_a_drained_worker_ends_what_it_has_takes_nothing_new_and_stays_so_until_it_is_resumed(
    stack: Stack, client: ServerlessClient, submit: Callable[..., Job], tmp_path: Path
) -> None:
    job = submit(WAITS)
    assert any("begun" in piece for piece in job.stream_logs())
    drained = home(job)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stack.qonduit, "worker", "drain", drained, "--wait")
        until_state(stack, drained, "draining")
        assert not waiting.done()
        tell(client, tmp_path, "draining.tar")
        waited = waiting.result()

    assert waited.stdout == f"Nothing runs on {drained}.\n"
    returned = datetime.now(UTC)
    assert job.result(timeout=300) == [0, 1, 4, 9]
    ended = job.snapshot().ended
    assert ended is not None
    assert ended < returned, "its driver ran there to its end"
    assert len([entry for entry in job.timeline() if entry.status == "RUNNING"]) == 1
    assert sorted(states(stack).values()) == ["drained", "open"]
    elsewhere = [submit(QUICK) for _ in range(4)]
    assert [each.result(timeout=300) for each in elsewhere] == ["ran"] * 4
    assert drained not in {home(each) for each in elsewhere}

    service = service_of(stack, drained)
    pid = stack.pid(service)
    os.kill(pid, signal.SIGKILL)
    stack.until_restarted(service, pid)
    for workers in client.cluster.watch_workers():
        back = [worker for worker in workers if worker.worker_id == drained]
        if back and back[0].state == "drained" and len(workers) == 2:
            break
    stack.qonduit("worker", "resume", drained)
    for workers in client.cluster.watch_workers():
        if [worker.state for worker in workers] == ["open", "open"]:
            break
    assert set(states(stack).values()) == {"open"}


def test_when_all_workers_drain_jobs_wait_and_say_why(stack: Stack, submit: Callable[..., Job]) -> None:
    names = list(states(stack))
    for name in names:
        stack.qonduit("worker", "drain", name, "--wait")
    try:
        job = submit(QUICK)
        for snapshot in job.watch(timeout=300):
            assert snapshot.status == "QUEUED"
            break
        deadline = time.monotonic() + 300
        while not (entries := json.loads(stack.qonduit("queue", "--json").stdout)):
            assert time.monotonic() < deadline, "the scheduler's report does not come"
        (entry,) = entries
        assert (entry["job_id"], entry["kind"], entry["count"], entry["user"]) == (job.job_id, "driver", 1, "admin")
        assert entry["why"].startswith("no connected worker takes anything new: ")
        assert all(f"{name} is draining" in entry["why"] for name in names)
        assert entry["since"]
    finally:
        for name in names:
            stack.qonduit("worker", "resume", name)
    assert job.result(timeout=300) == "ran"


def test_an_unknown_worker_is_refused_with_the_known_ones(stack: Stack) -> None:
    refused = stack.qonduit("worker", "drain", "nobody", check=False)
    assert refused.returncode == 1
    assert all(name in refused.stderr for name in states(stack))


def test_only_administrators_drain(stack: Stack) -> None:
    token = stack.qonduit("users", "add", "alice").stdout.split()[-1]
    alice = Stack(
        Path(stack.data_dir), environment={"QONDUIT_TOKEN": token, "QONDUIT_ADDRESS": stack.profile["address"]}
    )
    for command in (
        ("worker", "drain", "any"),
        ("worker", "resume", "any"),
        ("users", "limit", "alice", "--cpu", "99"),
    ):
        refused = alice.qonduit(*command, check=False)
        assert refused.returncode == 1
        assert "administrator" in refused.stderr


def test_a_users_limit_holds_for_their_next_job(stack: Stack, submit: Callable[..., Job]) -> None:
    out = stack.qonduit("users", "limit", "admin", "--cpu", "2", "--mem", "1GiB").stdout
    assert "2 cpu, 1.0 GiB" in out
    text = (
        "from qiskit_serverless import distribute_task, get, save_result\n"
        "@distribute_task(target={'cpu': 3, 'mem': 2**28})\n"
        "def large():\n"
        "    return 1\n"
        "try:\n"
        "    get(large(), timeout=300)\n"
        "except Exception as error:\n"
        "    save_result([type(error).__name__, str(error)])\n"
    )
    try:
        name, said = submit(text).result(timeout=300)
    finally:
        stack.qonduit("users", "limit", "admin", "--default")
    assert name == "TaskUnschedulableError"
    assert "2 cpu" in said
