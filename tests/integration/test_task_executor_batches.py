"""An executor's desk on a real bus: which batches its process has, and which go back for others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from qonduit_service_kit.messages import (
    TaskOutcome,
    TasksTaken,
)
from qonduit_worker.tasks import executor_side
from task_scenes import QUEUE, ExecutorScene, Heard, executor_scene, given

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_service_kit.testing import MakeBus

OK, RETURNED, DIED = TaskOutcome.OK, TaskOutcome.RETURNED, TaskOutcome.EXECUTOR_DIED
MIB = 1024**2


@pytest.fixture
async def scene(make_bus: MakeBus) -> AsyncIterator[ExecutorScene]:
    async with executor_scene(await make_bus()) as made:
        yield made


async def test_the_driver_hears_that_tasks_were_taken_and_a_function_is_given_once(scene: ExecutorScene) -> None:
    scene.process.on_push = lambda name, fields: scene.answer(fields) if name == "tasks_run" else None
    await given(scene, "a", "b")
    await scene.submit("c")
    assert await scene.answers(3) == {"a": OK, "b": OK, "c": OK}
    taken = [await scene.heard.next(TasksTaken, number) for number in (0, 1)]
    assert [message.tasks for message in taken] == [(("a", 1), ("b", 1)), (("c", 1),)]
    told = [fields["functions"] for name, fields in scene.process.told.all if name == "tasks_run"]
    assert told == [[["f", "f", b"code", ""]], []]


async def test_tasks_behind_a_long_one_are_asked_back(scene: ExecutorScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_side, "RECALL_S", 0.01)
    await given(scene, "long", "b", "c")
    await scene.process.is_told("tasks_recall")
    scene.result("b", "RETURNED")
    scene.result("c", "RETURNED")
    assert await scene.answers(2) == {"b": RETURNED, "c": RETURNED}
    scene.result("long")
    assert (await scene.answers(3))["long"] == OK


async def test_tasks_behind_one_that_waits_for_others_are_asked_back(scene: ExecutorScene) -> None:
    await given(scene, "waits", "b", expected_s=100.0)
    scene.desk.waiting(waiting=True)
    await scene.process.is_told("tasks_recall")
    assert scene.desk.lends_cpu
    scene.desk.waiting(waiting=False)
    assert not scene.desk.lends_cpu


@pytest.mark.parametrize("expected_s", [0.0, 100.0], ids=["unknown", "known to be long"])
async def test_a_batch_behind_a_long_task_is_left_to_others(
    scene: ExecutorScene, monkeypatch: pytest.MonkeyPatch, expected_s: float
) -> None:
    monkeypatch.setattr(executor_side, "HOLD_S", 0.01)
    await given(scene, "long", expected_s=expected_s)
    await scene.submit("next")
    other = Heard()
    subscription = await scene.bus.consume(QUEUE, other.hear)
    (batch,) = await other.until(lambda: other.all)
    assert batch.tasks[0].task_id == "next"
    await subscription.cancel()
    await scene.submit("last")
    scene.result("long")
    await scene.process.is_told("tasks_run", 1)
    scene.result("last")
    assert await scene.answers(2) == {"long": OK, "last": OK}


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes back because it has waited: here no task takes longer than expected, however slow the test is."""
    monkeypatch.setattr(executor_side, "RECALL_S", 600)


@pytest.mark.usefixtures("patient")
async def test_a_batch_behind_a_short_one_is_in_the_process_before_that_ends_and_a_third_is_not(
    scene: ExecutorScene,
) -> None:
    await given(scene, "a", expected_s=0.1)
    await scene.submit("b", expected_s=0.1)
    second = await scene.process.is_told("tasks_run", 1)
    assert [row[0] for row in second["tasks"]] == ["b"]
    await scene.submit("c", expected_s=0.1)
    assert await scene.bus.count(QUEUE) == 1, "it is there for any executor"
    scene.result("a")
    third = await scene.process.is_told("tasks_run", 2)
    assert [row[0] for row in third["tasks"]] == ["c"]
    scene.result("b")
    scene.result("c")
    assert await scene.answers(3) == {"a": OK, "b": OK, "c": OK}


async def test_a_batch_behind_one_that_is_longer_than_expected_goes_back_and_no_other_comes(
    scene: ExecutorScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_side, "RECALL_S", 0.01)
    await given(scene, "long", expected_s=0.001)
    await scene.submit("b", expected_s=0.001)
    await scene.process.is_told("tasks_recall")
    scene.result("b", "RETURNED")
    assert await scene.answers(1) == {"b": RETURNED}
    await scene.submit("next")
    other = Heard()
    subscription = await scene.bus.consume(QUEUE, other.hear)
    (batch,) = await other.until(lambda: other.all)
    assert batch.tasks[0].task_id == "next"
    await subscription.cancel()
    scene.result("long")
    await scene.submit("last")
    told = await scene.process.is_told("tasks_run", 2)
    assert [row[0] for row in told["tasks"]] == ["last"]


@pytest.mark.usefixtures("patient")
async def test_a_death_blames_nothing_of_the_batch_behind(scene: ExecutorScene) -> None:
    await given(scene, "a", expected_s=0.1)
    await scene.submit("b", expected_s=0.1)
    await scene.process.is_told("tasks_run", 1)
    scene.process.kill()
    await scene.ended()
    assert await scene.answers(2) == {"a": DIED, "b": RETURNED}
    assert await scene.bus.count(QUEUE) == 0, "it was answered for, so it is not left in the queue"


@pytest.mark.usefixtures("patient")
async def test_the_timeout_of_a_batch_behind_counts_from_its_own_beginning(scene: ExecutorScene) -> None:
    await given(scene, "a", expected_s=0.1)
    await scene.submit("b", expected_s=0.1, timeout_s=0.05)
    await scene.process.is_told("tasks_run", 1)
    begun = asyncio.get_running_loop().time()
    scene.result("a")
    await scene.ended()
    assert await scene.answers(2) == {"a": OK, "b": TaskOutcome.TIMEOUT}
    assert asyncio.get_running_loop().time() - begun >= 0.05


@pytest.mark.parametrize("turns", range(6))
async def test_an_executor_whose_task_ends_as_it_stops_taking_takes_tasks_again(
    scene: ExecutorScene, turns: int
) -> None:
    async def later(fields: dict[str, Any]) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        scene.answer(fields)

    ending: list[asyncio.Task[None]] = []
    scene.process.on_push = lambda name, fields: (
        ending.append(asyncio.create_task(later(fields))) if name == "tasks_run" else None
    )
    scene.connect()
    for number in range(5):
        await scene.submit(f"t{number}", expected_s=100.0)
        await scene.answers(number + 1)
