"""A driver's desk on a real bus: tasks that have tasks run, what tasks print, and what a driver that waits says."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from qonduit_service_kit.messages import (
    ExecutorLost,
    ExecutorOutput,
    Shape,
    SubmittedTask,
    TaskFunction,
    TaskInput,
    TaskOutcome,
    TaskReply,
    TaskRequests,
    TaskResult,
    TaskResults,
    TasksCanceled,
    TasksTaken,
    TaskState,
)
from qonduit_worker.tasks.output import MOST_BYTES
from task_scenes import SHAPE, DriverScene, driver_scene, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_service_kit.testing import MakeBus


@pytest.fixture
async def scene(make_bus: MakeBus) -> AsyncIterator[DriverScene]:
    async with driver_scene(await make_bus()) as made:
        yield made


# --- Tasks of tasks ----------------------------------------------------------------------------


_sequences = itertools.count(1)


def requests(*task_ids: str, lease: str = "lease", inputs: tuple[str, ...] = (), **fields: Any) -> TaskRequests:
    given = tuple(TaskInput(one) for one in inputs)
    tasks = tuple(SubmittedTask(one, "g", b"call", "", given) for one in task_ids)
    function = TaskFunction("g", "g", SHAPE, code=b"code")
    sequence = next(_sequences)
    return TaskRequests(
        "job", 1, lease, "w2", "parent", functions=(function,), tasks=tasks, sequence=sequence, **fields
    )


async def test_a_task_has_tasks_run_and_hears_how_they_ended(scene: DriverScene) -> None:
    await scene.take_all()
    message = requests("a", "b")
    scene.desk.handle(message)
    scene.desk.handle(message)
    await scene.takes(2)
    scene.ends("a")
    assert await scene.posted() == [
        ("w2", TaskResults("job", 1, "lease", results=(TaskResult("a", "OK", b"value of a"),)))
    ]
    scene.desk.handle(requests(cancel=("b",)))
    assert (await scene.posted(2))[1][1].results[0].outcome == "CANCELED"
    records = await settled(scene)
    assert {record.parent_id for record in records.values()} == {"parent"}
    assert scene.told.all == [], "it is no affair of the driver's program"


async def test_a_task_hears_of_inputs_that_have_ended_before(scene: DriverScene) -> None:
    scene.desk.handle(requests("a"))
    scene.ends("a")
    await scene.posted()
    scene.desk.handle(requests("b", inputs=("a",)))
    assert (await scene.posted(2))[1] == ("w2", TaskResults("job", 1, "lease", unknown=("b",)))


@pytest.mark.parametrize("how", ["lost", "died", "out of memory"])
async def test_what_a_lost_task_started_ends_with_it(scene: DriverScene, how: str) -> None:
    scene.submit("parent")
    scene.desk.handle(TasksTaken("job", 1, "lease", "w2", 1, (("parent", 1),)))
    scene.desk.handle(requests("a", "b"))
    scene.desk.handle(TasksTaken("job", 1, "other", "w3", 2, (("a", 1),)))
    if how == "lost":
        scene.desk.handle(ExecutorLost("job", 1, "lease", "gone"))
    else:
        scene.reply(TaskReply("parent", 1, TaskOutcome.OUT_OF_MEMORY if "out" in how else TaskOutcome.EXECUTOR_DIED))
    await scene.posted()
    assert ("w3", TasksCanceled("job", 1, "other", ("a",))) in scene.workers.all
    scene.desk.handle(requests("late"))
    records = await settled(scene)
    assert [records[number].state for number in (1, 2)] == [TaskState.CANCELED] * 2
    assert "late" not in {record.task_id for record in records.values()}


# --- Output ------------------------------------------------------------------------------------


async def test_a_log_that_takes_nothing_holds_up_no_value(scene: DriverScene) -> None:
    scene.submit("t0")
    chunk = bytes(32 * 1024)
    for sequence in range(1, MOST_BYTES // len(chunk) + 100):
        scene.desk.handle(ExecutorOutput("job", 1, "l", sequence, chunk))
    scene.ends("t0")
    assert (await scene.is_done("t0"))["t0"][2] == b"value of t0"
    scene.log_open.set()
    await scene.desk.close()
    assert len(scene.log) <= MOST_BYTES + 1000
    assert b"bytes that tasks printed are missing" in scene.log


async def test_output_that_comes_twice_is_written_once(scene: DriverScene) -> None:
    scene.log_open.set()
    for sequence in (1, 2, 2, 1):
        scene.desk.handle(ExecutorOutput("job", 1, "l", sequence, b"line %d\n" % sequence))
    await scene.desk.close()
    assert bytes(scene.log) == b"line 1\nline 2\n"


async def test_a_driver_that_waits_says_so_in_order(scene: DriverScene) -> None:
    scene.desk.waiting(waiting=True)
    assert scene.desk.lends_cpu
    await scene.scheduler.until(lambda: scene.scheduler.all)
    for _ in range(1000):  # A program that looks again and again.
        scene.desk.waiting(waiting=True)
        scene.desk.waiting(waiting=False)
    told = await scene.scheduler.until(lambda: scene.scheduler.all if len(scene.scheduler.all) == 2 else None)
    assert [(one.waiting, one.sequence, one.lease_id) for one in told] == [
        (True, 1, "driver-lease"),
        (False, 2, "driver-lease"),
    ]


async def test_demand_grows_with_the_tasks_that_wait_for_tasks_of_their_own(scene: DriverScene) -> None:
    scene.define("wide", cpu_millis=8000)  # Of such the job's limit holds two at work.
    wide = Shape(8000, SHAPE.mem_bytes)
    scene.submit("a", "b", function="wide")
    await scene.demand(2)
    for number, parent in enumerate(("a", "b", "c", "d"), 1):
        scene.desk.handle(TasksTaken("job", 1, f"lease of {parent}", "w2", number, ((parent, 1),)))
        function = TaskFunction("wide", "wide", wide, code=b"code")
        child = SubmittedTask("abcdef"[number + 1], "wide", b"call")
        scene.desk.handle(
            replace(requests(lease=f"lease of {parent}"), functions=(function,), tasks=(child,), parent_id=parent)
        )
        await scene.demand(number + 2)
