"""Tasks that hang, bomb, wait for each other and are canceled, on a small worker: only they have the harm."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import stack_control
from stack_control import TOLD, Stack, until_logged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from qonduit import Job, ServerlessClient

    Submit = Callable[..., Job]

HEAD = (
    TOLD
    + """\
import os, signal, sys
from qonduit import TaskCanceledError, TaskError, TaskOutOfMemoryError, TaskTimeoutError, cancel, wait
from qiskit_serverless import distribute_task, get, save_result

def how(reference):
    try:
        return get(reference)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""
)
ONE_CPU = "@distribute_task(target={'cpu': 1, 'mem': 200 * 2**20})\n"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = Stack(tmp_path_factory.mktemp("small"), environment={"QONDUIT_WORKER_CPU": "2"})
    running.up()
    yield running
    running.down()


@pytest.fixture(scope="module")
def client(stack: Stack) -> ServerlessClient:
    return stack.client()


@pytest.fixture
def tell(client: ServerlessClient, tmp_path: Path) -> Callable[[str], None]:
    """Return a function that lets a program go on that waits in told()."""
    return partial(stack_control.tell, client, tmp_path)


# --- Tasks of tasks ----------------------------------------------------------------------------


def test_tasks_that_wait_for_tasks_never_block_a_small_worker(submit: Submit) -> None:
    text = HEAD + (
        ONE_CPU + "def count(depth):\n"
        "    if not depth:\n        return 1\n"
        "    return 1 + sum(get([count(depth - 1), count(depth - 1)]))\n"
        "save_result(get([count(3) for _ in range(4)]))\n"
    )
    job = submit(text)
    assert job.result(timeout=300) == [15] * 4
    tasks = list(job.tasks())
    assert len(tasks) == 60
    assert {task.state for task in tasks} == {"DONE"}
    ids = {task.task_id for task in tasks}
    assert sum(task.parent_id in ids for task in tasks) == 56


def test_what_a_task_started_ends_with_it(submit: Submit, tell: Callable[[str], None]) -> None:
    text = HEAD + (
        ONE_CPU + "def child():\n    print('child began')\n    time.sleep(600)\n" + ONE_CPU + "def parent():\n"
        "    print('parent began')\n    return get([child() for _ in range(3)])\n"
        "reference = parent()\n"
        "wait([reference], timeout=0)\ntold('children.tar')\n"
        "cancel(reference)\n"
        "save_result([how(reference), get(distribute_task()(abs)(-1))])\n"
    )
    job = submit(text)
    until_logged(job, "parent began", "child began")
    tell("children.tar")
    canceled, after = job.result(timeout=300)
    assert canceled.startswith("TaskCanceledError")
    assert after == 1
    assert [task.state for task in job.tasks()] == ["CANCELED"] * 4 + ["DONE"]


# --- Cancels and timeouts ----------------------------------------------------------------------


def test_a_canceled_task_is_interrupted_where_it_is_or_never_runs(submit: Submit, tell: Callable[[str], None]) -> None:
    # The tasks that must not run wait for a value: those that lie in the queue may begin before their cancel arrives.
    text = HEAD + (
        ONE_CPU + "def hold():\n"
        "    print('begun')\n"
        "    try:\n        time.sleep(600)\n"
        "    except TaskCanceledError:\n        print('interrupted')\n        raise\n"
        "    finally:\n        print('cleaned up')\n" + ONE_CPU + "def never(n):\n    print('never')\n"
        "running = hold()\n"
        "told('running.tar')\n"
        "queued = [never(running) for _ in range(50)]\n"
        "cancel(queued)\n"
        "ended = {how(ref).split(':')[0] for ref in queued}\n"
        "cancel(running)\n"
        "ended.add(how(running).split(':')[0])\n"
        "told('cleaned.tar')\n"
        "cancel([running, *queued])\n"
        "save_result([sorted(ended), get(distribute_task()(abs)(-1))])\n"
    )
    job = submit(text)
    until_logged(job, "begun")
    tell("running.tar")
    until_logged(job, "interrupted", "cleaned up")
    tell("cleaned.tar")
    assert job.result(timeout=300) == [["TaskCanceledError"], 1]
    assert "never" not in [line.split("] ")[-1] for line in job.logs().splitlines()]
    assert job.tasks().counts == {"CANCELED": 51, "DONE": 1}


def test_a_task_that_heeds_no_signal_is_killed_when_it_is_canceled(submit: Submit, tell: Callable[[str], None]) -> None:
    text = HEAD + (
        ONE_CPU + "def stubborn():\n"
        "    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):\n"
        "        signal.signal(number, signal.SIG_IGN)\n"
        "    print('begun')\n"
        "    while True:\n        try:\n            time.sleep(600)\n        except BaseException:\n            pass\n"
        + ONE_CPU
        + "def live(n):\n    return n\n"
        "reference = stubborn()\n"
        "told('stubborn.tar')\n"
        "cancel(reference)\n"
        "save_result([how(reference).split(':')[0], get(live.map(range(100)))])\n"
    )
    job = submit(text)
    until_logged(job, "begun")
    tell("stubborn.tar")
    assert job.result(timeout=300) == ["TaskCanceledError", list(range(100))]


def test_a_task_past_its_timeout_ends_alone(submit: Submit) -> None:
    text = HEAD + (
        "def nap(seconds):\n    time.sleep(seconds)\n    return seconds\n"
        "long, short = (distribute_task(target={'cpu': 1}, timeout=limit)(nap) for limit in (1.5, 300))\n"
        "first = get(short(0))\n"
        "references = [short(0) if n % 10 else long(600) for n in range(30)]\n"
        "save_result([how(ref) for ref in references])\n"
    )
    job = submit(text)
    ended = job.result(timeout=300)
    assert [one for n, one in enumerate(ended) if n % 10] == [0] * 27
    late = "TaskTimeoutError: task nap ran longer than its timeout of 1.5 s and was ended"
    assert ended[::10] == [late] * 3
    assert job.tasks().counts == {"DONE": 28, "TIMEOUT": 3}


# --- Hogs --------------------------------------------------------------------------------------


def test_a_fork_bomb_fails_alone(submit: Submit) -> None:
    text = HEAD + (
        "@distribute_task(target={'cpu': 1, 'mem': 2**30})\ndef bomb():\n    while True:\n        os.fork()\n"
        + ONE_CPU
        + "def live(n):\n"
        "    pid = os.fork() if n == 0 else 1\n    return n\n"
        "bad = bomb()\n"
        "save_result([how(bad), get([live(n) for n in range(1, 40)])])\n"
    )
    bad, good = submit(text).result(timeout=300)
    assert bad.startswith(("BlockingIOError", "OSError", "TaskLostError")), bad
    assert good == list(range(1, 40))


def test_a_memory_hog_fails_alone_and_its_neighbour_never_notices(submit: Submit) -> None:
    text = HEAD + (
        "@distribute_task(target={'cpu': 0.5, 'mem': 150 * 2**20})\n"
        "def hog():\n    kept = []\n    while True:\n        kept.append(bytearray(2**20))\n"
        "@distribute_task(target={'cpu': 0.5, 'mem': 200 * 2**20})\n"
        "def neighbour():\n"
        "    kept = bytearray(100 * 2**20)\n    end = time.process_time() + 0.5\n"
        "    while time.process_time() < end:\n        kept[-1] += 1\n        kept[-1] = 0\n"
        "    return len(kept)\n"
        "beside, bad = [neighbour() for _ in range(2)], [hog() for _ in range(2)]\n"
        "save_result([[how(one) for one in bad], get(beside)])\n"
    )
    job = submit(text)
    bad, beside = job.result(timeout=300)
    for one in bad:
        assert one.startswith("TaskOutOfMemoryError: task hog used more than its 150 MiB of memory (peak 1")
        assert 'a larger "mem"' in one
    assert beside == [100 * 2**20] * 2
    assert {(task.name, task.state, task.attempt) for task in job.tasks()} == {
        ("hog", "OUT_OF_MEMORY", 1),
        ("neighbour", "DONE", 1),
    }


# --- The bill ----------------------------------------------------------------------------------


def test_the_bill_of_many_tiny_tasks_is_what_they_burned(submit: Submit) -> None:
    text = HEAD + (
        "import uuid\n"
        "me = []\n" + ONE_CPU + "def tick():\n"
        "    import builtins\n"
        "    if not hasattr(builtins, 'me'):\n        builtins.me = uuid.uuid4().hex\n"
        "    end = time.process_time() + 0.004\n    while time.process_time() < end:\n        pass\n"
        "    return builtins.me, time.process_time()\n"
        "first, last = {}, {}\n"
        "for name, seconds in get([tick() for _ in range(500)]):\n"
        "    first[name] = min(seconds, first.get(name, seconds))\n"
        "    last[name] = max(seconds, last.get(name, seconds))\n"
        "save_result([sum(last.values()) - sum(first.values()), sum(last.values()), time.process_time()])\n"
    )
    job = submit(text)
    burned, by_executors, by_driver = job.result(timeout=300)
    assert burned >= 1.9
    # The first task of an executor may be billed for what it took to start it, and how many there were is not said.
    billed = sum(task.cpu_s for task in job.tasks())
    assert 0.95 * burned <= billed <= 1.15 * by_executors
    assert job.usage().total.cpu_s == pytest.approx(billed + by_driver, rel=0.15)
