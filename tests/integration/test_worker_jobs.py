"""A driver's life on a real worker process, with real storage and a real RabbitMQ."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import TYPE_CHECKING

import psutil
import pytest
import pytest_asyncio
from qonduit_service_kit.messages import EventKind, Reason, Shape, Stage
from scripted_cluster import MIB, PATIENCE_S, ScriptedCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_service_kit.testing import PrivateBroker

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster(broker: PrivateBroker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ScriptedCluster]:
    async with ScriptedCluster.running(broker.vhost_url("worker-jobs"), tmp_path_factory.mktemp("cluster")) as made:
        yield made


async def test_a_job_runs_from_its_arguments_to_its_result(cluster: ScriptedCluster) -> None:
    job = await cluster.run(
        "from qonduit.program import get_arguments, save_result\n"
        "print('hello')\n"
        "save_result({'twice': get_arguments()['number'] * 2})\n",
        arguments='{"number": 21}',
    )
    assert await job.result() == {"twice": 42}
    assert [event.kind for event in job.events] == [EventKind.INITIALIZING, EventKind.RUNNING, EventKind.FINISHED]
    assert [event.sequence for event in job.events] == [1, 2, 3]
    assert await job.log() == "hello\n"
    assert (await job.finished()).exit_code == 0
    assert (await job.lease_ended()).cause == "done"


async def test_the_last_result_counts(cluster: ScriptedCluster) -> None:
    job = await cluster.run("from qonduit.program import save_result\nsave_result(1)\nsave_result([2])\n")
    assert await job.result() == [2]


@pytest.mark.parametrize(("length", "comes"), [(1000, True), (100_000, False)])
async def test_only_a_small_result_comes_with_the_end(cluster: ScriptedCluster, length: int, comes: bool) -> None:  # noqa: FBT001
    job = await cluster.run(f"from qonduit.program import save_result\nsave_result('x' * {length})\n")
    end = await job.finished()
    stored = await cluster.blob(end.result_digest)
    assert json.loads(stored) == "x" * length
    assert end.result == (stored if comes else None)


async def test_what_a_failed_program_saved_does_not_come_with_the_end(cluster: ScriptedCluster) -> None:
    job = await cluster.run("from qonduit.program import save_result\nsave_result(1)\nraise ValueError\n")
    end = await job.finished()
    assert (end.reason, end.result) == (Reason.PROGRAM_ERROR, None)


async def test_a_job_without_a_result_is_done_all_the_same(cluster: ScriptedCluster) -> None:
    job = await cluster.run("x = 1\n")
    assert await job.result() is None


async def test_stages_come_in_order_with_their_usage(cluster: ScriptedCluster) -> None:
    job = await cluster.run(
        "from qonduit.program import update_status\n"
        "import time\n"
        "update_status('MAPPING')\n"
        "end = time.process_time() + 0.3\n"
        "while time.process_time() < end: pass\n"
        "update_status('OPTIMIZING_HARDWARE')\n"
        "update_status('OPTIMIZING_FOR_HARDWARE')\n"
        "update_status('RUNNING: WAITING_FOR_QPU')\n"
        "update_status('EXECUTING_QPU')\n"
        "update_status('POST_PROCESSING')\n"
    )
    end = await job.finished()
    assert end.reason is Reason.NONE, end.text
    assert [event.stage for event in job.events if event.kind is EventKind.STAGE] == [
        Stage.MAPPING,
        Stage.OPTIMIZING_FOR_HARDWARE,
        Stage.WAITING_FOR_QPU,
        Stage.EXECUTING_QPU,
        Stage.POST_PROCESSING,
    ]
    used = {usage.stage: usage for usage in end.usage}
    assert used[Stage.MAPPING].cpu_s == pytest.approx(0.3, rel=0.1, abs=0.03)
    assert used[Stage.MAPPING].wall_s >= 0.3
    assert used[Stage.MAPPING].peak_mem_bytes > 0


async def test_a_program_that_raises(cluster: ScriptedCluster) -> None:
    job = await cluster.run("def inner():\n    raise ValueError('the bad value')\ninner()\n")
    end = await job.finished()
    assert (end.reason, end.exit_code) == (Reason.PROGRAM_ERROR, 1)
    assert end.text.startswith("Traceback")
    assert end.text.rstrip().endswith("ValueError: the bad value")
    assert "main.py" in end.text
    assert "runner.py" not in end.text
    assert await job.log() == end.text


async def test_a_program_that_exits_with_a_code(cluster: ScriptedCluster) -> None:
    end = await (await cluster.run("import sys\nsys.exit(3)\n")).finished()
    assert (end.reason, end.exit_code) == (Reason.PROGRAM_ERROR, 3)
    assert "exited with code 3" in end.text


async def test_a_program_that_is_killed(cluster: ScriptedCluster) -> None:
    end = await (await cluster.run("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")).finished()
    assert (end.reason, end.signal, end.exit_code) == (Reason.KILLED, 9, None)
    assert "SIGKILL" in end.text


async def test_a_program_that_eats_memory(cluster: ScriptedCluster) -> None:
    job = await cluster.run("held = [bytearray(1024**2) for _ in range(4096)]\n", shape=Shape(1000, 96 * MIB))
    end = await job.finished()
    assert end.reason is Reason.OUT_OF_MEMORY
    assert "96 MiB" in end.text


async def test_a_program_that_runs_past_its_time_limit(cluster: ScriptedCluster) -> None:
    job = await cluster.run("import time\nprint('begun')\ntime.sleep(600)\n", time_limit_s=0.5)
    end = await job.finished()
    assert end.reason is Reason.TIMEOUT
    assert "0.5 s" in end.text


async def test_children_that_stay_behind_end_with_their_program(cluster: ScriptedCluster) -> None:
    name = f"left-{uuid.uuid4().hex[:8]}"
    job = await cluster.run(
        "import ctypes, os, time\n"
        "reader, writer = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        f"        ctypes.CDLL(None).prctl(15, b'{name}')\n"
        "        os.write(writer, b'.')\n"
        "        time.sleep(600)\n"
        "    os._exit(0)\n"
        "os.read(reader, 1)\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
        "print('parent leaves')\n"
    )
    async with asyncio.timeout(PATIENCE_S):
        while not alive(name):  # noqa: ASYNC110 - It is a process of a program: nobody says so.
            await asyncio.sleep(0.02)
    cluster.let_go()
    end = await job.finished()
    assert end.reason is Reason.NONE
    assert await job.log() == "parent leaves\n"
    assert not alive(name)


def alive(name: str) -> bool:
    """Whether a process of this name runs."""
    found = (process.info for process in psutil.process_iter(["name", "status"]))
    return any(each["name"] == name and each["status"] != psutil.STATUS_ZOMBIE for each in found)


async def test_a_result_that_cannot_be_written_is_an_error_even_if_it_is_caught(cluster: ScriptedCluster) -> None:
    job = await cluster.run(
        "from qonduit.program import save_result\n"
        "try:\n"
        "    save_result({'good': 1, 'callback': print})\n"
        "except Exception as error:\n"
        "    print('caught', type(error).__name__)\n"
    )
    end = await job.finished()
    assert end.reason is Reason.RESULT_NOT_SERIALIZABLE
    assert "result['callback']" in end.text
    assert await job.log() == "caught NotSerializableError\n"
