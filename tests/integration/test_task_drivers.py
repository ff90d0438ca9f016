"""A driver's desk on a real bus: what it takes from a program, what it gives to executors, what it bears from them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from qonduit_service_kit.bus import Bus
from qonduit_service_kit.messages import (
    DemandRefused,
    ExecutorLost,
    TaskBatch,
    TaskInput,
    TaskOutcome,
    TaskReply,
    TasksCanceled,
    TasksTaken,
)
from qonduit_service_kit.testing import new_broker
from qonduit_worker.tasks import driver_side
from qonduit_worker.tasks.ledger import LEAST_WINDOW
from task_scenes import PATIENCE_S, QUEUE, SHAPE, DriverScene, ExecutorScene, Heard, driver_scene, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from qonduit_service_kit.bus import Queue
    from qonduit_service_kit.testing import MakeBus, PrivateBroker
    from qonduit_worker.tasks import Give


@pytest.fixture
async def scene(make_bus: MakeBus) -> AsyncIterator[DriverScene]:
    async with driver_scene(await make_bus()) as made:
        yield made


def names(count: int, first: int = 0) -> list[str]:
    return [f"t{number}" for number in range(first, first + count)]


def an_idle_executor() -> tuple[Heard, Give]:
    """Return what an executor is given, and what gives it."""
    here = Heard()

    async def give(batch: TaskBatch) -> None:
        here.add(batch)

    return here, give


# --- From the program to the queue -------------------------------------------------------------


async def test_of_ten_thousand_tasks_a_window_lies_in_the_queue_and_one_count_is_told(scene: DriverScene) -> None:
    for first in range(0, 10_000, 250):
        assert scene.submit(*names(250, first)) is None
    demand = await scene.demand(10_000)
    assert (demand.shape, demand.task_name, demand.user) == (SHAPE, "f", "ada")
    await scene.take_all()
    # As long as nothing has run, nobody knows how long they take: each goes alone.
    calls = await scene.takes(LEAST_WINDOW)
    assert [call.task_id for call in calls] == names(LEAST_WINDOW)
    scene.desk.handle(TasksTaken("job", 1, "lease", "w", 1, tuple((call.task_id, 1) for call in calls)))
    scene.ends(*(call.task_id for call in calls))
    await scene.batches.until(lambda: any(len(batch.tasks) > 100 for batch in scene.batches.all), "a large batch")
    ended = LEAST_WINDOW
    while ended < 10_000:
        calls = await scene.takes(ended + 1)
        scene.ends(*(call.task_id for call in calls[ended:]))
        ended = len(calls)
    done = await scene.is_done(*names(10_000))
    assert done["t9999"][2] == b"value of t9999"
    await scene.demand(0)
    sent = [call.task_id for call in scene.taken]
    assert sent == names(10_000), "each was sent once, in its order"
    assert len(scene.batches.all) < 500


async def test_what_an_idle_executor_here_can_run_goes_there_and_the_rest_by_the_queue(scene: DriverScene) -> None:
    here, give = an_idle_executor()
    scene.idle = give
    scene.submit("a")
    (call,) = (await here.next(TaskBatch)).tasks
    assert call.task_id == "a"
    scene.idle = None
    await scene.take_all()
    scene.submit("b")
    await scene.takes_one("b")
    scene.ends("a", "b")
    await scene.is_done("a", "b")
    assert [call.task_id for call in scene.taken] == ["b"], "what was given lay in no queue"


async def test_what_comes_as_the_queue_is_made_goes_behind_what_waited_for_it(
    scene: DriverScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare = scene.bus.declare

    async def declare_and_submit(*queues: Queue) -> None:
        await declare(*queues)
        scene.submit("b")

    monkeypatch.setattr(scene.bus, "declare", declare_and_submit)
    scene.submit("a")
    await scene.demand(2)
    await scene.take_all()
    assert [call.task_id for call in await scene.takes(2)] == ["a", "b"]


async def test_what_lies_in_the_queue_is_not_overtaken_by_what_could_be_given(scene: DriverScene) -> None:
    here, give = an_idle_executor()
    scene.submit("a")
    await scene.demand(1)
    scene.idle = give
    scene.submit("b")
    await scene.take_all()
    assert [call.task_id for call in await scene.takes(2)] == ["a", "b"]
    assert not here.all
    scene.ends("a", "b")
    await scene.is_done("a", "b")
    scene.submit("c")
    (call,) = (await here.next(TaskBatch)).tasks
    assert call.task_id == "c", "nothing lies in the queue any more"


async def test_more_than_one_driver_may_have_makes_the_program_wait(
    scene: DriverScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_side, "MOST_UNFINISHED", 4)
    assert scene.submit(*names(3)) is None
    waiting = asyncio.create_task(scene.submit("last"))
    await scene.demand(4)
    assert not waiting.done()
    scene.ends("t1")
    await asyncio.wait_for(waiting, PATIENCE_S)


async def test_more_bytes_than_one_driver_may_have_make_the_program_wait(
    scene: DriverScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_side, "MOST_INLINE_BYTES", 1000)
    assert scene.submit("a", call=bytes(600)) is None
    waiting = asyncio.create_task(scene.submit("b", call=bytes(600)))
    await scene.demand(2)
    assert not waiting.done()
    scene.desk.cancel({"tasks": ["a"]})
    await asyncio.wait_for(waiting, PATIENCE_S)


async def test_a_program_that_waits_for_room_is_let_go_at_the_end(
    scene: DriverScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_side, "MOST_UNFINISHED", 1)
    waiting = asyncio.create_task(scene.submit("a", "b"))
    await scene.desk.close()
    await asyncio.wait_for(waiting, PATIENCE_S)


async def test_a_function_that_nobody_knows_or_that_makes_no_sense_has_its_calls_refused(scene: DriverScene) -> None:
    scene.define("odd", cpu_millis="much")
    scene.submit("a", function="odd")
    scene.submit("b", function="unknown")
    done = await scene.is_done("a", "b")
    assert {row[1] for row in done.values()} == {"REFUSED"}
    assert done["b"][4] == "unknown function"


async def test_calls_that_make_no_sense_are_refused_with_a_text(scene: DriverScene) -> None:
    scene.desk.submit(
        {"function": "f", "tasks": [["a", b"call", "0" * 64, [], []], ["b", b"call", "", [], []], 7, [[]]]}
    )
    done = await scene.is_done("a", "b")
    assert done["a"][1] == "REFUSED"
    assert "either bytes or the digest" in done["a"][4]
    assert scene.submit("c") is None, "the program goes on"


async def test_too_many_targets_are_refused(scene: DriverScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_side, "MOST_SHAPES", 2)
    for number in range(3):
        scene.define(f"f{number}", cpu_millis=1000 + number)
        scene.submit(f"t{number}", function=f"f{number}")
    done = await scene.is_done("t2")
    assert "at most 2 different targets" in done["t2"][4]
    assert "t1" not in done


async def test_a_shape_that_no_worker_could_hold_ends_its_tasks_with_the_reason(scene: DriverScene) -> None:
    scene.submit("a")
    scene.define("small", cpu_millis=1)
    scene.submit("b", function="small")
    scene.desk.handle(DemandRefused("job", 1, SHAPE, "too large for every worker"))
    done = await scene.is_done("a")
    assert done["a"][1:] == ["UNSCHEDULABLE", None, "", "too large for every worker"]
    assert "b" not in done


# --- Values of other tasks ---------------------------------------------------------------------


async def test_a_task_waits_for_its_inputs_and_travels_with_their_values(scene: DriverScene) -> None:
    await scene.take_all()
    scene.submit("a", "b")
    scene.submit("sum", inputs=("a", "b"))
    await scene.demand(2)
    await scene.takes(2)
    scene.ends("a")
    scene.reply(TaskReply("b", 1, TaskOutcome.OK, value_digest="d" * 64))
    (call,) = (await scene.takes(3))[2:]
    assert call.task_id == "sum"
    assert call.inputs == (TaskInput("", b"value of a"), TaskInput("", None, "d" * 64))


async def test_an_input_that_fails_fails_what_needs_it(scene: DriverScene) -> None:
    scene.submit("a")
    scene.submit("b", inputs=("a",))
    scene.submit("c", inputs=("b",))
    scene.reply(TaskReply("a", 1, TaskOutcome.ERROR, value=b"the exception", text="traceback"))
    done = await scene.is_done("a", "b", "c")
    assert {tuple(row[1:]) for row in done.values()} == {("ERROR", b"the exception", "", "traceback")}


async def test_an_input_that_has_ended_before_is_asked_for_with_its_value(scene: DriverScene) -> None:
    await scene.take_all()
    scene.submit("a")
    scene.ends("a")
    scene.submit("b", inputs=("a",))
    (told,) = await scene.told.until(
        lambda: [fields for name, fields in scene.told.all if name == "tasks_unknown"], "an unknown input"
    )
    assert told == {"tasks": ["b"]}
    scene.desk.submit({"function": "f", "tasks": [["b", b"call", "", [["", b"value of a", ""]], []]]})
    call = await scene.takes_one("b")
    assert call.inputs == (TaskInput("", b"value of a"),)


async def test_large_inputs_are_stored_and_leave_room(scene: DriverScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_side, "MOST_INLINE_BYTES", 200_000)
    await scene.take_all()
    for number in range(5):  # If what was stored still counted, the third would have to wait for ever.
        given = names(5, 10 * number)
        scene.submit(*given)
        scene.submit(f"all{number}", inputs=tuple(given))
        value = bytes([number]) * 30_000
        scene.reply(*(TaskReply(one, 1, TaskOutcome.OK, value=value) for one in given))
        wanted = f"all{number}"
        call = await scene.takes_one(wanted)
        assert {scene.kept[one.value_digest] for one in call.inputs} == {value}
        scene.ends(wanted)
        await scene.is_done(wanted)
        assert scene.submit(f"next{number}") is None


async def test_what_was_stored_for_a_call_is_let_go_at_the_end_of_its_task(scene: DriverScene) -> None:
    scene.desk.submit({"function": "f", "tasks": [["a", None, "e" * 64, [], ["c" * 64, "c" * 64]]]})
    scene.ends("a")
    await scene.is_done("a")
    assert scene.released == ["e" * 64, "c" * 64, "c" * 64]


# --- Losses ------------------------------------------------------------------------------------


async def test_what_a_lost_lease_owned_goes_out_again_with_the_next_attempt(scene: DriverScene) -> None:
    await scene.take_all()
    scene.submit("a", "b")
    await scene.takes(2)
    scene.desk.handle(TasksTaken("job", 1, "lease", "w2", 1, (("a", 1),)))
    scene.desk.handle(ExecutorLost("job", 1, "lease", "its worker is gone"))
    (again,) = (await scene.takes(3))[2:]
    assert (again.task_id, again.attempt) == ("a", 2)
    scene.ends("a", attempt=1)  # The old attempt's value is as good.
    scene.ends("a", "b", attempt=2)
    await scene.is_done("a", "b")


async def test_tasks_that_come_back_run_elsewhere(make_bus: MakeBus, scene: DriverScene) -> None:
    """A long task in a batch holds up no other, with real executors' desks on both sides."""
    bus = await make_bus()
    slow, quick = ExecutorScene(bus, "slow"), ExecutorScene(bus, "quick")
    for executor in (slow, quick):

        async def post(_: str, message: object) -> None:
            scene.desk.handle(message)

        executor.desk._post = executor.desk._replies._post = post
    scene.submit("seed")
    slow.run()
    slow.connect()
    slow.process.on_push = lambda name, fields: slow.answer(fields) if name == "tasks_run" else None
    await scene.is_done("seed")  # Now tasks of this function are known to be quick, and travel together.
    given: list[str] = []

    def hold(name: str, fields: dict[str, Any]) -> None:
        if name == "tasks_run":
            given.extend(row[0] for row in fields["tasks"])
        if name == "tasks_recall":
            for task_id in given[1:]:
                slow.result(task_id, "RETURNED")

    slow.process.on_push = hold
    scene.submit(*names(40))
    await slow.process.is_told("tasks_run", 1)
    assert len(given) > 1
    quick.run()
    quick.connect()
    quick.process.on_push = lambda name, fields: quick.answer(fields) if name == "tasks_run" else None
    done = await scene.is_done(*(one for one in names(40) if one != given[0]))
    assert given[0] not in done
    slow.result(given[0])
    await scene.is_done(*names(40))
    for executor in (slow, quick):
        executor.process.kill()
        await executor.ended()


@pytest.fixture
def own_broker() -> Iterator[PrivateBroker]:
    broker = new_broker()
    yield broker
    broker.stop()


async def test_what_rabbitmq_forgot_is_sent_again(own_broker: PrivateBroker) -> None:
    bus = Bus(own_broker.url, app_id="test")
    await bus.start()
    scene = DriverScene(bus)
    try:
        scene.define()
        scene.submit(*names(30))
        await asyncio.gather(*scene.desk._sending)
        await asyncio.to_thread(own_broker.kill)
        await asyncio.to_thread(own_broker.start)
        await bus.wait_connected()
        scene.desk.send_queued_again()
        await scene.take_all()
        ended, seen = 0, set[str]()
        while len(seen) < 30:  # What RabbitMQ had not forgotten comes twice.
            calls = await scene.takes(ended + 1)
            ended, seen = len(calls), {call.task_id for call in calls}
            scene.ends(*seen)
        await scene.is_done(*names(30))
    finally:
        await scene.desk.close()
        await bus.stop()


# --- Cancels and ends --------------------------------------------------------------------------


async def test_a_queued_task_that_is_canceled_is_not_run(scene: DriverScene) -> None:
    scene.submit("a")
    await scene.demand(1)
    scene.desk.cancel({"tasks": ["a", "unknown"]})
    done = await scene.is_done("a")
    assert done["a"][1] == "CANCELED"
    scene.desk.handle(TasksTaken("job", 1, "lease", "w2", 1, (("a", 1),)))
    assert await scene.posted() == [("w2", TasksCanceled("job", 1, "lease", ("a",)))]


async def test_a_running_task_that_is_canceled_is_interrupted_where_it_runs(scene: DriverScene) -> None:
    scene.submit("a", "b")
    scene.desk.handle(TasksTaken("job", 1, "lease", "w2", 1, (("a", 1), ("b", 1))))
    scene.desk.cancel({"tasks": ["a"]})
    assert await scene.posted() == [("w2", TasksCanceled("job", 1, "lease", ("a",)))]
    scene.ends("a", "b")  # It was too late; nobody is told twice.
    done = await scene.is_done("a", "b")
    assert (done["a"][1], done["b"][1]) == ("CANCELED", "OK")


async def test_at_the_end_all_is_canceled_told_and_gone(scene: DriverScene) -> None:
    scene.define("g", cpu_millis=2)
    scene.submit("a", "b")
    scene.submit("c", function="g")
    scene.submit("d", inputs=("a",))
    scene.desk.handle(TasksTaken("job", 1, "lease", "w2", 1, (("a", 1), ("b", 1))))
    await scene.demand(2)
    reply = TaskReply("b", 1, TaskOutcome.OK, cpu_s=1.5, started_at=2.0, peak_mem_bytes=77)
    scene.reply(reply)
    records = await settled(scene)
    states = {records[number].task_id: records[number].state for number in range(4)}
    assert states == {"a": "CANCELED", "b": "DONE", "c": "CANCELED", "d": "CANCELED"}
    assert (records[1].cpu_s, records[1].started_at, records[1].peak_mem_bytes) == (1.5, 2.0, 77)
    assert (records[1].worker_id, records[1].stage, records[1].shape) == ("w2", "MAPPING", SHAPE)
    assert await scene.posted() == [("w2", TasksCanceled("job", 1, "lease", ("a",)))]
    await scene.desk.close()
    await scene.desk.close()
    probe = await scene.bus.consume(QUEUE, scene.batches.hear)  # It makes the queue anew, empty.
    assert await scene.bus.count(QUEUE) == 0
    await probe.cancel()


async def test_what_a_task_used_is_booked_on_its_stage_once(scene: DriverScene) -> None:
    scene.submit("a")
    reply = TaskReply("a", 1, TaskOutcome.OK, cpu_s=1.5, peak_mem_bytes=77)
    scene.reply(reply)
    scene.reply(reply)
    assert scene.booked == [("MAPPING", 1.5, 77)]


async def test_what_a_task_used_until_its_cancel_reached_it_is_booked_once(scene: DriverScene) -> None:
    scene.submit("a", "b")
    scene.desk.handle(TasksTaken("job", 1, "lease", "w2", 1, (("a", 1), ("b", 1))))
    scene.desk.cancel({"tasks": ["a", "b"]})
    await scene.is_done("a", "b")
    reply = TaskReply("a", 1, TaskOutcome.CANCELED, cpu_s=1.5, peak_mem_bytes=77)
    scene.reply(reply)
    scene.reply(reply)
    scene.reply(reply, lease="another")
    assert scene.booked == [("MAPPING", 1.5, 77)]
    scene.desk.handle(ExecutorLost("job", 1, "lease", "its worker is gone"))
    scene.reply(TaskReply("b", 1, TaskOutcome.CANCELED, cpu_s=9.0))
    assert scene.booked == [("MAPPING", 1.5, 77)], "of a lost executor nothing more is believed"
    records = await settled(scene)
    assert (records[0].state, records[0].cpu_s, records[0].peak_mem_bytes) == ("CANCELED", 1.5, 77)
