"""An executor's desk on a real bus: whatever becomes of its process, the driver's agent hears of each task it took."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from qonduit_service_kit.messages import (
    ExecutorLost,
    ExecutorOutput,
    TaskOutcome,
    TaskReplies,
    TasksCanceled,
    TasksTaken,
)
from qonduit_worker.sandbox import Exit, Usage
from qonduit_worker.tasks import executor_side, replies
from task_scenes import DONE, ExecutorScene, executor_scene, given

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_service_kit.testing import MakeBus

OK, RETURNED, DIED = TaskOutcome.OK, TaskOutcome.RETURNED, TaskOutcome.EXECUTOR_DIED
MIB = 1024**2


@pytest.fixture
async def scene(make_bus: MakeBus) -> AsyncIterator[ExecutorScene]:
    async with executor_scene(await make_bus()) as made:
        yield made


# --- Its life ----------------------------------------------------------------------------------


async def test_a_process_that_dies_as_it_starts_takes_nothing(scene: ExecutorScene) -> None:
    await scene.submit("t")
    scene.process.kill()
    await scene.ended()
    await scene.left(1)
    assert scene.heard.all == []


async def test_a_process_that_never_is_ready_is_killed(make_bus: MakeBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_side, "READY_S", 0.05)
    async with executor_scene(await make_bus()) as scene:
        await scene.submit("t")
        await scene.ended()
        await scene.left(1)
        assert scene.process.ended


async def test_a_lease_that_is_revoked_before_its_process_is_ready_ends(scene: ExecutorScene) -> None:
    await scene.desk.revoke(now=False)
    await scene.ended()


async def test_a_process_that_does_not_end_when_told_is_killed(
    scene: ExecutorScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_side, "END_S", 0.05)
    scene.connect()
    await scene.desk.revoke(now=False)
    await scene.ended()
    assert await scene.process.is_told("executor_end") == {}


async def test_a_revoked_executor_ends_after_the_task_in_hand_and_takes_no_other(scene: ExecutorScene) -> None:
    await given(scene, "t")
    revoking = asyncio.create_task(scene.desk.revoke(now=False))
    await scene.submit("another")
    scene.result("t")
    assert await scene.answers(1) == {"t": OK}
    await scene.process.is_told("executor_end")
    scene.process.end(DONE)
    await revoking
    await scene.ended()
    await scene.left(1)


async def test_a_revoked_executor_gives_back_what_it_has_not_begun(scene: ExecutorScene) -> None:
    await given(scene, "a", "b", "c")
    revoking = asyncio.create_task(scene.desk.revoke(now=False))
    await scene.process.is_told("tasks_recall")
    scene.result("b", "RETURNED")
    scene.result("c", "RETURNED")
    assert await scene.answers(2) == {"b": RETURNED, "c": RETURNED}
    assert not revoking.done()
    scene.result("a")
    await scene.process.is_told("executor_end")
    scene.process.end(DONE)
    await revoking
    assert await scene.answers(3) == {"a": OK, "b": RETURNED, "c": RETURNED}


async def test_a_lease_that_is_revoked_at_once_answers_for_all_it_took(scene: ExecutorScene) -> None:
    await given(scene, "a", "b")
    await scene.desk.revoke(now=True)
    await scene.ended()
    assert await scene.answers(2) == {"a": DIED, "b": RETURNED}


# --- What a driver on the same worker gives ------------------------------------------------------


async def test_an_idle_executor_runs_what_a_driver_on_its_worker_gives(scene: ExecutorScene) -> None:
    assert not scene.desk.idle, "its process is not up"
    scene.connect()
    assert scene.desk.idle
    await scene.desk.give(scene.batch("a", "b"))
    assert not scene.desk.idle
    scene.answer(await scene.process.is_told("tasks_run"))
    assert (await scene.heard.next(TasksTaken)).tasks == (("a", 1), ("b", 1))
    assert await scene.answers(2) == {"a": OK, "b": OK}
    assert scene.desk.idle
    await scene.desk.revoke(now=True)
    assert not scene.desk.idle


async def test_nothing_is_given_to_an_executor_for_whose_tasks_nobody_answers(
    make_bus: MakeBus,
) -> None:
    scene = ExecutorScene(await make_bus())
    scene.connect()
    assert not scene.desk.idle


async def test_what_comes_by_the_queue_runs_after_what_was_given(scene: ExecutorScene) -> None:
    scene.connect()
    await scene.desk.give(scene.batch("given"))
    await scene.submit("queued")
    await scene.process.is_told("tasks_run")
    scene.result("given")
    scene.answer(await scene.process.is_told("tasks_run", 1))
    assert await scene.answers(2) == {"given": OK, "queued": OK}


async def test_what_was_given_to_a_process_that_dies_is_answered_for(scene: ExecutorScene) -> None:
    scene.connect()
    await scene.desk.give(scene.batch("a", "b"))
    scene.process.kill()
    await scene.ended()
    assert await scene.answers(2) == {"a": DIED, "b": RETURNED}


# --- Deaths ------------------------------------------------------------------------------------


async def test_a_death_in_a_batch_blames_only_the_task_that_ran(scene: ExecutorScene) -> None:
    await given(scene, "a", "b", "c", "d")
    scene.result("a")
    scene.process.kill()
    await scene.ended()
    assert await scene.answers(4) == {"a": OK, "b": DIED, "c": RETURNED, "d": RETURNED}
    assert next(reply for reply in scene.replies if reply.task_id == "b").text == "its executor ended with signal 9"
    assert scene.heard.of(ExecutorLost) == [], "everything was answered for"


async def test_a_death_for_want_of_memory_names_limit_and_peak(scene: ExecutorScene) -> None:
    await given(scene, "a", "b")
    scene.process.end(
        Exit(None, 9, oom_killed=True, cpu_seconds=0, peak_mem_bytes=66 * MIB, wall_seconds=0),
    )
    await scene.ended()
    assert await scene.answers(2) == {"a": TaskOutcome.OUT_OF_MEMORY, "b": RETURNED}
    text = scene.replies[0].text
    assert "64 MiB" in text
    assert "peak 66 MiB" in text


async def test_a_task_past_its_timeout_is_ended_and_those_behind_it_go_back(scene: ExecutorScene) -> None:
    await given(scene, "slow", "b", timeout_s=0.05)
    await scene.ended()
    assert await scene.answers(2) == {"slow": TaskOutcome.TIMEOUT, "b": RETURNED}
    assert "longer than its timeout of 0.05 s" in scene.replies[0].text


async def test_replies_that_cannot_be_told_end_the_lease_as_lost(scene: ExecutorScene) -> None:
    tell = scene.desk._replies._post

    async def fail(worker_id: str, message: object) -> None:
        raise OSError(f"{worker_id} does not hear {message}")

    scene.desk._replies._post = fail
    await given(scene, "t")
    scene.result("t")
    lost = await scene.heard.next(ExecutorLost)
    assert (lost.job_id, lost.attempt, lost.lease_id) == ("job", 1, "lease")
    await scene.ended()
    scene.desk._replies._post = tell
    assert scene.process.ended


async def test_a_process_whose_channel_is_gone_is_ended_and_its_tasks_answered_for(scene: ExecutorScene) -> None:
    scene.connect()
    scene.process.connected = False
    await scene.submit("a", "b")
    await scene.ended()
    assert await scene.answers(2) == {"a": DIED, "b": RETURNED}


# --- Replies -----------------------------------------------------------------------------------


async def test_many_ends_share_messages_and_each_is_told_once(scene: ExecutorScene) -> None:
    scene.process.on_push = lambda name, fields: scene.answer(fields) if name == "tasks_run" else None
    scene.connect()
    for start in range(0, 1000, 100):
        await scene.submit(*(f"t{number}" for number in range(start, start + 100)))
    assert set((await scene.answers(1000)).values()) == {OK}
    assert len(scene.heard.of(TaskReplies)) < 100
    scene.process.end(DONE)
    await scene.ended()
    assert len(await scene.answers(1000)) == 1000
    assert scene.heard.of(ExecutorLost) == []


async def test_the_bill_of_many_tasks_is_what_the_kernel_counted(scene: ExecutorScene) -> None:
    await given(scene, *(f"t{number}" for number in range(50)))
    scene.process.used = Usage(1000.0, 0, 30 * MIB)  # With processes that the tasks started.
    for number in range(50):
        scene.result(f"t{number}", run_s=100.0)  # Nobody is billed for more time than has passed.
    await scene.answers(50)
    assert sum(reply.cpu_s for reply in scene.replies) == pytest.approx(1000.0)
    assert scene.replies[-1].peak_mem_bytes == 30 * MIB


async def test_a_task_that_went_back_is_not_billed_for_the_one_before_it(
    scene: ExecutorScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "READ_S", 0)  # The kernel is asked at each end.
    await given(scene, "runs", "went back")
    scene.process.used = Usage(3.0, 0, 0)
    scene.result("went back", "RETURNED")
    await scene.answers(1)
    scene.result("runs")
    await scene.answers(2)
    assert {reply.task_id: reply.cpu_s for reply in scene.replies} == {"went back": 0.0, "runs": pytest.approx(3.0)}


@pytest.mark.parametrize(
    "row",
    [
        None,
        [],
        ["t", 1, "OK"],
        ["other", 1, "OK", b"v", "", "", 0.0, 0.0, 0.0],
        ["t", 2, "OK", b"v", "", "", 0.0, 0.0, 0.0],
        [["t"], 1, "OK", b"v", "", "", 0.0, 0.0, 0.0],
    ],
    ids=repr,
)
async def test_what_a_process_says_of_no_task_in_hand_is_ignored(scene: ExecutorScene, row: object) -> None:
    await given(scene, "t")
    scene.desk.on_result({"result": row})
    scene.desk.on_result({})
    scene.result("t")
    scene.result("t")
    assert await scene.answers(1) == {"t": OK}


async def test_nonsense_in_a_result_is_an_error_of_that_task(scene: ExecutorScene) -> None:
    await given(scene, "t")
    scene.desk.on_result({"result": ["t", 1, "SPLENDID", "text", 5, 7, -3, "much", None]})
    assert await scene.answers(1) == {"t": TaskOutcome.ERROR}
    (reply,) = scene.replies
    assert (reply.value, reply.value_digest, reply.cpu_s) == (None, "", 0.0)


# --- Cancels -----------------------------------------------------------------------------------


async def test_a_running_task_that_is_canceled_may_end_by_itself(
    scene: ExecutorScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_side, "CANCEL_S", 600)
    await given(scene, "a", "b")
    scene.desk.canceled(TasksCanceled("job", 1, "lease", ("a", "unknown")))
    assert await scene.process.is_told("tasks_cancel") == {"tasks": ["a"]}
    scene.result("a", "CANCELED")
    scene.result("b")
    assert await scene.answers(2) == {"a": TaskOutcome.CANCELED, "b": OK}
    assert not scene.process.ended


async def test_a_running_task_that_does_not_heed_its_cancel_is_killed(
    scene: ExecutorScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_side, "CANCEL_S", 0.01)
    await given(scene, "stubborn", "b")
    scene.desk.canceled(TasksCanceled("job", 1, "lease", ("stubborn",)))
    await scene.ended()
    assert await scene.answers(2) == {"stubborn": DIED, "b": RETURNED}


async def test_a_canceled_task_that_began_in_the_meantime_is_killed_too(
    scene: ExecutorScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_side, "CANCEL_S", 0.01)
    await given(scene, "a", "stubborn")
    scene.desk.canceled(TasksCanceled("job", 1, "lease", ("stubborn",)))
    scene.result("a")
    await scene.ended()
    assert await scene.answers(2) == {"a": OK, "stubborn": DIED}


async def test_a_waiting_task_is_canceled_without_harm_to_the_running_one(
    scene: ExecutorScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_side, "CANCEL_S", 0.0)
    await given(scene, "a", "b")
    scene.desk.canceled(TasksCanceled("job", 1, "lease", ("b",)))
    scene.result("b", "CANCELED")
    await scene.answers(1)
    scene.result("a")
    assert await scene.answers(2) == {"a": OK, "b": TaskOutcome.CANCELED}
    assert not scene.process.ended


async def test_a_cancel_for_what_is_not_here_changes_nothing(scene: ExecutorScene) -> None:
    scene.connect()
    scene.desk.canceled(TasksCanceled("job", 1, "lease", ("t",)))
    assert scene.process.told.all == []


# --- Output ------------------------------------------------------------------------------------


async def test_lines_go_to_the_driver_with_their_task_before_them(scene: ExecutorScene) -> None:
    scene.process.output.feed_data(b"\x1eqonduit-task 7 f\x1fhello\nno end")
    scene.process.end(DONE)
    await scene.ended()
    await scene.heard.until(lambda: b"no end" in b"".join(one.chunk for one in scene.heard.of(ExecutorOutput)))
    outputs = scene.heard.of(ExecutorOutput)
    assert b"".join(output.chunk for output in outputs) == b"[task 7 f] hello\n[task 7 f] no end\n"
    assert [output.sequence for output in outputs] == list(range(1, len(outputs) + 1))
