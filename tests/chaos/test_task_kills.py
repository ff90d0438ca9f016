"""Executors, a worker and RabbitMQ are killed again and again under a job of many tasks: nothing is lost or doubled.

A short run by default; QONDUIT_CHAOS=full makes 200 kills under 20,000 tasks or more, which takes some minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import tarfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from qonduit import QiskitFunction
from qonduit_service_kit.testing import new_broker
from stack_control import LEAN, Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qonduit import Job
    from qonduit_service_kit.testing import PrivateBroker

PATIENCE_S = 120.0
CHANCE = random.Random(3)  # noqa: S311 - It keeps no secret.
SETTINGS = {
    "QONDUIT_WORKER_CPU": "2",
    **LEAN,
    # A machine that is busy starting RabbitMQ again should not take its workers for dead.
    "QONDUIT_WORKER_LEASE_TTL_S": "600",
    "QONDUIT_SCHEDULER_LEASE_TTL_S": "600",
}
PROGRAM = """\
import ctypes, time
from qonduit.program.channel import agent
from qiskit_serverless import distribute_task, get, get_arguments, save_result

ctypes.CDLL(None).prctl(15, b"chaos-driver")  # So that the test knows whom to leave alone.
TARGET = {"cpu": 0.5, "mem": 128 * 2**20}

@distribute_task(target=TARGET, max_retries=1000)
def square(n):
    time.sleep(0.02)  # Work during which it can be killed.
    return n * n

@distribute_task(target=TARGET, max_retries=1000)
def large(n):  # Too large for a message.
    return n.to_bytes(8, "big") * 10_000

@distribute_task(target=TARGET, max_retries=1000)
def outer(n):
    return get(square(n)) + 1

@distribute_task(target=TARGET, max_retries=1000)
def plus(n, value):
    return n + (value if isinstance(value, int) else len(value))

def submit(n):
    if n % 101 == 100:
        return outer(n)
    if n % 89 == 88:
        return plus(n, references[n - 1])
    return square(n) if n % 97 else large(n)

def expected(n):
    if n % 101 == 100:
        return n * n + 1
    if n % 89 == 88:
        value = expected(n - 1)
        return n + (value if isinstance(value, int) else len(value))
    return n * n if n % 97 else n.to_bytes(8, "big") * 10_000

total = get_arguments()["total"]
AHEAD = total // 4
references, wrong = [], []

def enough():  # The test says so, by a file, once it has killed all it wants to.
    return "enough.tar" in [file["name"] for file in agent().call("files_list")]

def check(n):
    if get(references[n]) != expected(n):
        wrong.append(n)
    if n % 20 == 0:
        print("done", n, flush=True)

while len(references) < total or len(references) % 100 or not enough():
    references.append(submit(len(references)))
    if len(references) > AHEAD:
        check(len(references) - 1 - AHEAD)
for n in range(len(references) - AHEAD, len(references)):
    check(n)
count = len(references)
save_result({"count": count, "wrong": wrong, "outer": sum(n % 101 == 100 for n in range(count))})
"""


@dataclass(frozen=True)
class Plan:
    """How much is done, and what is killed meanwhile."""

    tasks: int
    executors: int
    workers: int
    brokers: int

    @property
    def strikes(self) -> list[str]:
        strikes = ["executor"] * self.executors + ["worker"] * self.workers + ["broker"] * self.brokers
        CHANCE.shuffle(strikes)
        return strikes


PLAN = Plan(20_000, 176, 12, 12) if os.environ.get("QONDUIT_CHAOS") == "full" else Plan(2_000, 12, 1, 1)


@pytest.fixture
def own_broker() -> Iterator[PrivateBroker]:
    broker = new_broker()
    yield broker
    broker.stop()


@pytest.fixture
def stack(tmp_path_factory: pytest.TempPathFactory, own_broker: PrivateBroker) -> Iterator[Stack]:
    options = ("--workers", "2", "--amqp-url", own_broker.url)
    running = Stack(tmp_path_factory.mktemp("chaos"), options, SETTINGS)
    running.up()
    yield running
    running.down()


# --- Who is where ------------------------------------------------------------------------------


def workers(stack: Stack) -> list[str]:
    return [name for name in stack.services if name.startswith("worker")]


def groups(stack: Stack, worker: str) -> list[list[int]]:
    """The processes of each sandbox of a worker."""
    found: dict[str, list[int]] = {}
    with contextlib.suppress(FileNotFoundError):
        for tree in json.loads((stack.data_dir / worker / "cgroups.json").read_text()):
            for procs in Path(tree).glob("sandbox-*/**/cgroup.procs"):
                with contextlib.suppress(OSError):  # It was removed meanwhile.
                    name = procs.relative_to(tree).parts[0]
                    # One that ends just now has the number 0, which to kill() means the whole of pytest.
                    found[name] = [*found.get(name, []), *(int(pid) for pid in procs.read_text().split() if pid != "0")]
    return [pids for pids in found.values() if pids]


def holds_driver(pids: list[int]) -> bool:
    def comm(pid: int) -> str:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/comm").read_text().strip()
        return ""

    return any(comm(pid) == "chaos-driver" for pid in pids)


def wait_for(look: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < deadline, f"{what} did not come about: {look()}"
        time.sleep(0.02)


# --- Strikes -----------------------------------------------------------------------------------


def kill_executor(stack: Stack) -> None:
    """Kill one process of a sandbox that is not the driver's: its first one, or the program itself."""
    victims: list[int] = []

    def found() -> bool:
        several = [pids for worker in workers(stack) for pids in groups(stack, worker) if not holds_driver(pids)]
        victims[:] = CHANCE.choice(several) if several else []
        return bool(victims)

    wait_for(found, "an executor")
    with contextlib.suppress(ProcessLookupError):
        os.kill(CHANCE.choice(victims), signal.SIGKILL)


def kill_worker(stack: Stack) -> None:
    """Kill the worker that is not the driver's; its supervisor starts it again."""
    (other,) = (name for name in workers(stack) if not any(map(holds_driver, groups(stack, name))))
    wait_for(lambda: stack.pid(other), "the worker")  # 0 while it is started again.
    pid = stack.pid(other)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: stack.pid(other) not in {0, pid}, "a new worker")


def strike(stack: Stack, broker: PrivateBroker, what: str) -> None:
    if what == "executor":
        kill_executor(stack)
    elif what == "worker":
        kill_worker(stack)
    else:
        broker.kill()
        broker.start()


# --- The test ----------------------------------------------------------------------------------


def rage(job: Job, stack: Stack, broker: PrivateBroker, enough: Callable[[], None]) -> None:
    """Strike once after so many more tasks each time, as the program's own words tell; return at its end."""
    strikes = PLAN.strikes
    step = PLAN.tasks / (len(strikes) + 1)
    struck, unread = 0, ""
    for piece in job.stream_logs():
        *lines, unread = (unread + piece).split("\n")
        for line in lines:
            done = re.fullmatch(r"done (\d+)", line)
            if done and struck < len(strikes) and int(done[1]) >= struck * step:
                strike(stack, broker, strikes[struck])
                struck += 1
                if struck == len(strikes):
                    enough()
    assert struck == len(strikes)


def leftovers(stack: Stack) -> list[str]:
    """What of finished jobs is still on this machine."""
    left = [f"process {pid}" for worker in workers(stack) for pids in groups(stack, worker) for pid in pids]
    for worker in workers(stack):
        folder = stack.data_dir / worker
        left += [str(path) for path in (folder / "sandboxes").glob("*")]
        left += [str(path) for path in (folder / "blobs" / "scopes").rglob("*")]
    return left


def task_queues(broker: PrivateBroker) -> str:
    """'' when there is no task queue, else what RabbitMQ says of them."""
    try:
        broker.node.control(
            'case [N || Q <- rabbit_amqqueue:list(), {resource, _, queue, N = <<"tasks.", _/binary>>} '
            "<- [amqqueue:get_name(Q)]] of [] -> ok; Left -> Left end."
        )
    except Exception as error:  # noqa: BLE001 - Whatever it says, it is shown when the wait is over.
        return str(error)
    return ""


@pytest.mark.timeout(3600 if PLAN.tasks > 5000 else 900)
def test_each_task_ends_once_and_right_whatever_dies_and_nothing_is_left(
    stack: Stack, own_broker: PrivateBroker, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    client = stack.client()
    function = client.upload(QiskitFunction(title="chaos", entrypoint="program.py", working_dir=str(tmp_path)))
    job = function.run(total=PLAN.tasks)

    def enough() -> None:
        with tarfile.open(tmp_path / "enough.tar", "w"):
            pass  # An empty one.
        client.file_upload(str(tmp_path / "enough.tar"))

    rage(job, stack, own_broker, enough)

    result = job.result(timeout=PATIENCE_S)
    assert result["wrong"] == []
    assert result["count"] >= PLAN.tasks
    assert {entry.attempt for entry in job.timeline()} <= {0, 1}, "the driver itself was left alone"
    tasks = list(job.tasks())
    of_driver = [task for task in tasks if not task.parent_id]
    assert Counter(task.state for task in of_driver) == {"DONE": result["count"]}
    # A task of a task that died was started anew by the next attempt, so there may be more of them, canceled.
    states = Counter(task.state for task in tasks if task.parent_id)
    assert set(states) <= {"DONE", "CANCELED"}
    assert states["DONE"] >= result["outer"]
    assert len({task.number for task in tasks}) == len(tasks) == max(task.number for task in tasks) + 1
    assert any(task.attempt > 1 for task in of_driver), "the kills have hit something"

    wait_for(lambda: not task_queues(own_broker), "an end of all task queues")
    wait_for(lambda: not leftovers(stack), "an empty machine")
    for seen in client.cluster.watch_workers():
        if not any(worker.leases for worker in seen):
            break
    trees = [
        Path(tree)
        for name in workers(stack)
        for tree in json.loads((stack.data_dir / name / "cgroups.json").read_text())
    ]
    stack.down()
    assert [tree for tree in trees if tree.exists()] == []
