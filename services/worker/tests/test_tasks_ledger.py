from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from qonduit_service_kit.messages import Shape, Stage, TaskFunction, TaskInput, TaskOutcome, TaskReply, TaskState
from qonduit_worker.tasks.batching import LOOK_AHEAD
from qonduit_worker.tasks.ledger import LEAST_WINDOW, TaskLedger
from qonduit_worker.tasks.task import Decision, Finished, Interrupt, Owner, Task, Unknown

SHAPE = Shape(1000, 2**30)
FUNCTION = TaskFunction("f", "f", SHAPE, max_retries=3, code=b"code")


def task(task_id: str = "t", *inputs: str, function: TaskFunction = FUNCTION, owner: Owner | None = None) -> Task:
    return Task(task_id, function, b"call", "", [TaskInput(one) for one in inputs], stage=Stage.MAPPING, owner=owner)


def sized(task_id: str, size_bytes: int) -> Task:
    return Task(task_id, FUNCTION, bytes(size_bytes), "", [])


def ok(task_id: str = "t", attempt: int = 1, value: bytes = b"v") -> TaskReply:
    return TaskReply(task_id, attempt, TaskOutcome.OK, value=value, wall_s=0.001)


def died(task_id: str = "t", attempt: int = 1) -> TaskReply:
    return TaskReply(task_id, attempt, TaskOutcome.EXECUTOR_DIED, text="signal 9")


def ledger_with(*task_ids: str, function: TaskFunction = FUNCTION) -> TaskLedger:
    ledger = TaskLedger()
    for task_id in task_ids:
        assert ledger.add(task(task_id, function=function), 1.0) is None
    return ledger


def take(ledger: TaskLedger, lease: str, *tasks: tuple[str, int]) -> list[Decision]:
    return ledger.taken(lease, f"worker of {lease}", tasks, 2.0)


def ends(decisions: list[Decision]) -> dict[str, str]:
    return {one.task.task_id: str(one.result.outcome) for one in decisions if isinstance(one, Finished)}


def published(ledger: TaskLedger) -> list[str]:
    return [one.task_id for batch in ledger.next_batches(SHAPE) for one in batch.tasks]


# --- Values and losses -------------------------------------------------------------------------


def test_a_value_is_committed_once() -> None:
    ledger = ledger_with("t")
    take(ledger, "lease", ("t", 1))
    (first,) = ledger.reply("lease", ok())
    assert isinstance(first, Finished)
    assert first.result.value == b"v"
    assert ledger.reply("lease", ok()) == []
    assert ledger.unfinished(SHAPE) == 0
    assert ledger.inline_bytes == 0


def test_the_same_task_submitted_twice_is_one() -> None:
    ledger = ledger_with("t", "t")
    assert len(ledger) == 1
    assert published(ledger) == ["t"]


def test_a_lost_lease_sends_its_tasks_again_and_no_other() -> None:
    ledger = ledger_with("a", "b", "c")
    published(ledger)
    take(ledger, "one", ("a", 1))
    take(ledger, "two", ("b", 1))
    assert ledger.lost("one", "its worker was lost") == []
    assert published(ledger) == ["a"]
    assert {batch.tasks[0].task_id: batch.tasks[0].attempt for batch in ledger.in_queue(SHAPE)} == {"a": 2, "c": 1}


def test_of_a_lost_lease_only_the_first_task_counts_the_loss() -> None:
    ledger = ledger_with("a", "b", function=TaskFunction("once", "once", SHAPE, max_retries=0))
    take(ledger, "one", ("a", 1), ("b", 1))
    decisions = ledger.lost("one", "signal 9")
    assert ends(decisions) == {"a": TaskOutcome.EXECUTOR_DIED}
    assert published(ledger) == ["b"]


def test_a_task_that_kills_its_executors_fails_with_that_reason() -> None:
    ledger = ledger_with("t")
    for attempt in range(1, FUNCTION.max_retries + 1):
        take(ledger, f"lease {attempt}", ("t", attempt))
        assert ledger.reply(f"lease {attempt}", died(attempt=attempt)) == []
    take(ledger, "lease 4", ("t", 4))
    (last,) = ledger.reply("lease 4", died(attempt=4))
    assert isinstance(last, Finished)
    assert last.state is TaskState.LOST
    assert "4 times" in last.result.text
    assert "signal 9" in last.result.text


def test_a_task_without_retries_fails_at_its_first_loss() -> None:
    ledger = ledger_with("t", function=TaskFunction("f", "f", SHAPE, max_retries=0))
    take(ledger, "lease", ("t", 1))
    (last,) = ledger.reply("lease", died())
    assert isinstance(last, Finished)
    assert "once" in last.result.text


def test_a_task_given_back_unstarted_is_no_loss() -> None:
    ledger = ledger_with("t")
    for attempt in range(1, 20):
        take(ledger, "lease", ("t", attempt))
        assert ledger.reply("lease", TaskReply("t", attempt, TaskOutcome.RETURNED)) == []
    assert ends(ledger.reply("lease", ok(attempt=20))) == {"t": "OK"}


def test_a_late_loss_of_an_older_attempt_changes_nothing() -> None:
    ledger = ledger_with("t")
    take(ledger, "one", ("t", 1))
    ledger.lost("one", "lost")
    take(ledger, "two", ("t", 2))
    assert ledger.reply("one", died(attempt=1)) == []
    interrupt, finished = ledger.reply("one", ok(attempt=1))
    assert isinstance(finished, Finished), "its value is good all the same"
    assert isinstance(interrupt, Interrupt)
    assert interrupt.lease_id == "two", "the other attempt need not go on"


def test_a_lease_that_was_lost_before_its_word_came_keeps_nothing() -> None:
    ledger = ledger_with("t")
    assert ledger.lost("dead", "its worker was silent") == []
    published(ledger)
    assert take(ledger, "dead", ("t", 1)) == []
    assert ledger.owners(SHAPE) == frozenset()
    assert published(ledger) == ["t"]
    assert ends(ledger.reply("dead", ok(attempt=1))) == {"t": "OK"}


def test_owners_are_the_leases_that_own_tasks_of_a_shape() -> None:
    ledger = ledger_with("a", "b", "c")
    take(ledger, "one", ("a", 1), ("b", 1))
    take(ledger, "two", ("b", 1), ("c", 1))
    assert ledger.owners(SHAPE) == {"one", "two"}
    ledger.reply("one", ok("a"))
    assert ledger.owners(SHAPE) == {"two"}
    ledger.lost("two", "gone")
    assert ledger.owners(SHAPE) == frozenset()
    assert ledger.inline_bytes == 2 * len(b"call")


def test_what_ends_a_task_at_once() -> None:
    for outcome in (TaskOutcome.OUT_OF_MEMORY, TaskOutcome.TIMEOUT, TaskOutcome.ERROR):
        ledger = ledger_with("t")
        (decision,) = ledger.reply("lease", TaskReply("t", 1, outcome, text="too much"))
        assert isinstance(decision, Finished)
        assert (decision.result.outcome, decision.result.text) == (outcome, "too much")


def test_a_refused_shape_ends_its_tasks_with_the_numbers() -> None:
    ledger = ledger_with("a", "b")
    other = Shape(2000, 2**30)
    ledger.add(task("c", function=TaskFunction("g", "g", other)), 1.0)
    assert ends(ledger.refuse(SHAPE, "needs 64 cpu")) == {"a": "UNSCHEDULABLE", "b": "UNSCHEDULABLE"}
    assert (ledger.unfinished(SHAPE), ledger.unfinished(other)) == (0, 1)


# --- The queue ---------------------------------------------------------------------------------


def test_only_a_window_of_tasks_lies_in_the_queue_and_it_moves_on() -> None:
    ledger = ledger_with(*(f"t{number}" for number in range(50)))
    assert published(ledger) == [f"t{number}" for number in range(LEAST_WINDOW)], "alone, as nothing is known of them"
    assert published(ledger) == []
    take(ledger, "lease", ("t0", 1))
    assert published(ledger) == [f"t{LEAST_WINDOW}"]


def test_tasks_that_are_known_to_be_short_travel_together_and_long_ones_alone() -> None:
    ledger = ledger_with(*(f"t{number}" for number in range(1000)))
    ledger.times.note(FUNCTION.function_id, 0.0001)
    sizes = [len(batch.tasks) for batch in ledger.next_batches(SHAPE)]
    assert sizes[0] > 50
    assert sizes == sorted(sizes, reverse=True), "a share of what is left"
    slow = ledger_with(*(f"t{number}" for number in range(1000)))
    slow.times.note(FUNCTION.function_id, 5.0)
    assert {len(batch.tasks) for batch in slow.next_batches(SHAPE)} == {1}


def test_the_last_tasks_are_shared_and_not_given_to_one_executor() -> None:
    ledger = ledger_with("a", "b", "c", "d")
    ledger.times.note(FUNCTION.function_id, 0.0001)
    assert [len(batch.tasks) for batch in ledger.next_batches(SHAPE)] == [1, 1, 1, 1]


def test_a_batch_that_the_broker_forgot_is_sent_again_without_what_was_taken() -> None:
    ledger = ledger_with(*(f"t{number}" for number in range(100)))
    ledger.times.note(FUNCTION.function_id, 0.0001)
    first = ledger.next_batches(SHAPE)[0]
    inside = [one.task_id for one in first.tasks]
    take(ledger, "lease", *((task_id, 1) for task_id in inside[:2]))
    assert [one.task_id for one in ledger.in_queue(SHAPE)[0].tasks] == inside[2:]


def test_of_long_tasks_the_larger_calls_go_first_and_none_waits_for_all_that_come_after_it() -> None:
    ledger = TaskLedger()
    ledger.times.note(FUNCTION.function_id, 5.0)
    for number in range(2 * LOOK_AHEAD):  # Each larger than the one before.
        ledger.add(sized(f"t{number}", number + 1), 1.0)
    order: list[str] = []
    while len(order) < 2 * LOOK_AHEAD:
        order += published(ledger)
        take(ledger, "lease", *((task_id, 1) for task_id in order))
    first = [f"t{number}" for number in reversed(range(LOOK_AHEAD))]
    assert order == [*first, *(f"t{number}" for number in reversed(range(LOOK_AHEAD, 2 * LOOK_AHEAD)))]


# --- Values of other tasks ---------------------------------------------------------------------


def test_a_task_waits_for_the_tasks_among_its_arguments() -> None:
    ledger = ledger_with("a", "b")
    ledger.add(task("sum", "a", "b"), 1.0)
    assert ledger.unfinished(SHAPE) == 2, "no executor could run the third"
    published(ledger)
    ledger.reply("lease", ok("a", value=b"1"))
    assert published(ledger) == []
    ledger.reply("lease", ok("b", value=b"2"))
    (batch,) = ledger.next_batches(SHAPE)
    assert [given.value for given in batch.tasks[0].inputs] == [b"1", b"2"]


def test_a_task_fails_as_a_task_among_its_arguments_failed_and_so_do_those_behind_it() -> None:
    ledger = ledger_with("a")
    ledger.add(task("b", "a"), 1.0)
    ledger.add(task("c", "b"), 1.0)
    reply = TaskReply("a", 1, TaskOutcome.ERROR, value=b"exception", text="ValueError")
    decisions = ledger.reply("lease", reply)
    assert ends(decisions) == dict.fromkeys("abc", "ERROR")
    assert all(one.result.value == b"exception" for one in decisions if isinstance(one, Finished))
    assert len(ledger) == 0


def test_a_task_whose_input_ended_before_is_not_taken() -> None:
    owner = Owner("w", "lease", "parent")
    assert TaskLedger().add(task("b", "gone", owner=owner), 1.0) == Unknown("b", owner)


# --- Cancel ------------------------------------------------------------------------------------


def test_a_cancel_ends_a_task_wherever_it_is() -> None:
    ledger = ledger_with(*(f"t{number}" for number in range(LEAST_WINDOW + 2)))
    ledger.add(task("waits", "t1"), 1.0)
    published(ledger)
    take(ledger, "lease", ("t0", 1))
    decisions = ledger.cancel(["t0", "t1", "t9", "waits", "nobody"])
    assert ends(decisions) == dict.fromkeys(["t0", "t1", "t9", "waits"], "CANCELED")
    assert [one.lease_id for one in decisions if isinstance(one, Interrupt)] == ["lease"]
    assert ledger.unwanted([("t1", 1), ("t2", 1)]) == ("t1",), "an executor that takes it is told"
    assert ledger.reply("lease", ok("t0")) == []


def test_the_tasks_of_a_task_end_with_its_executor() -> None:
    ledger = ledger_with("parent")
    take(ledger, "lease", ("parent", 1))
    ledger.add(task("child", owner=Owner("w", "lease", "parent")), 1.0)
    assert ends(ledger.lost("lease", "signal 9")) == {"child": "CANCELED"}
    assert len(ledger) == 1


def child(task_id: str, of: str, lease: str = "lease") -> Task:
    return task(task_id, owner=Owner("worker", lease, of))


def test_of_a_lost_lease_the_first_in_the_order_of_its_work_is_blamed() -> None:
    once = TaskFunction("once", "once", SHAPE, max_retries=0)
    ledger = ledger_with("a", "b", function=once)
    take(ledger, "one", ("b", 1), ("a", 1))  # Another one was before b once, and came back.
    assert ends(ledger.lost("one", "signal 9")) == {"b": TaskOutcome.EXECUTOR_DIED}


def test_what_a_task_started_ends_with_its_executor() -> None:
    ledger = ledger_with("parent")
    take(ledger, "lease", ("parent", 1))
    ledger.add(child("one", "parent"), 2.0)
    ledger.add(child("two", "one", "another"), 2.0)
    ledger.add(child("other", "else", "another"), 2.0)
    assert ends(ledger.reply("lease", died("parent"))) == {"one": TaskState.CANCELED, "two": TaskState.CANCELED}
    assert set(ledger.unfinished_ids()) == {"parent", "other"}
    assert ledger.is_lost("lease")
    assert not ledger.is_lost("another")


def test_what_a_task_started_is_canceled_with_it() -> None:
    ledger = ledger_with("parent", "beside")
    ledger.add(child("one", "parent"), 2.0)
    ledger.add(child("two", "one"), 2.0)
    assert set(ends(ledger.cancel(["parent"]))) == {"parent", "one", "two"}
    assert ledger.unfinished_ids() == ("beside",)


def test_values_that_were_stored_for_a_task_count_no_more() -> None:
    ledger = ledger_with("a")
    waiting = task("b", "a")
    ledger.add(waiting, 1.0)
    take(ledger, "lease", ("a", 1))
    ledger.reply("lease", ok("a", value=b"v" * 1000))
    assert ledger.inline_bytes == 1004
    ledger.lighten(waiting, 0, "d" * 64)
    assert (ledger.inline_bytes, waiting.inputs[0].value_digest) == (4, "d" * 64)
    ledger.cancel(["b"])
    ledger.lighten(waiting, 0, "d" * 64)
    assert ledger.inline_bytes == 0


# --- Whatever comes ----------------------------------------------------------------------------

TASK_IDS = st.sampled_from(["a", "b", "c", "d"])
LEASES = st.sampled_from(["one", "two"])
ATTEMPTS = st.integers(1, 6)
EVENTS = st.one_of(
    st.tuples(st.just("taken"), LEASES, TASK_IDS, ATTEMPTS),
    st.tuples(st.just("lost"), LEASES),
    st.tuples(st.just("cancel"), TASK_IDS),
    st.tuples(st.just("publish")),
    st.tuples(st.just("reply"), LEASES, TASK_IDS, ATTEMPTS, st.sampled_from(list(TaskOutcome))),
)


def apply(ledger: TaskLedger, event: tuple[object, ...]) -> list[Decision]:
    match event:
        case ("taken", str(lease), str(task_id), int(attempt)):
            return take(ledger, lease, (task_id, attempt))
        case ("lost", str(lease)):
            return ledger.lost(lease, "lost")
        case ("cancel", str(task_id)):
            return ledger.cancel([task_id])
        case ("publish",):
            ledger.next_batches(SHAPE)
            return []
        case ("reply", str(lease), str(task_id), int(attempt), TaskOutcome() as outcome):
            return ledger.reply(lease, TaskReply(task_id, attempt, outcome))
        case _:
            raise AssertionError(event)


@given(st.lists(EVENTS, max_size=60))
def test_whatever_comes_each_task_ends_once_and_none_is_forgotten(events: list[tuple[object, ...]]) -> None:
    ledger = ledger_with("a", "b", "c")
    ledger.add(task("d", "a"), 1.0)
    ended: list[str] = []
    attempts: dict[str, int] = {}
    for event in events:
        ended += [one.task.task_id for one in apply(ledger, event) if isinstance(one, Finished)]
        for task_id in ledger.unfinished_ids():
            one = ledger.unfinished_task(task_id)
            assert one is not None
            assert one.attempt >= attempts.get(task_id, 1)
            attempts[task_id] = one.attempt
    assert len(ended) == len(set(ended))
    assert set(ended) | set(ledger.unfinished_ids()) == set("abcd")
    # With executors that do their work, everything that is left comes to its end.
    while len(ledger):
        ledger.next_batches(SHAPE)
        left = [one for one in map(ledger.unfinished_task, ledger.unfinished_ids()) if one is not None]
        runnable = [one for one in left if one.state is not TaskState.WAITING]
        assert runnable
        for one in runnable:
            take(ledger, "three", (one.task_id, one.attempt))
            ended += ends(ledger.reply("three", ok(one.task_id, one.attempt)))
    assert sorted(ended) == list("abcd")
    assert (ledger.inline_bytes, ledger.unfinished(SHAPE), ledger.in_queue(SHAPE)) == (0, 0, [])


def test_tasks_of_tasks_that_could_never_start_are_found() -> None:
    limit = Shape(16_000, 2 * SHAPE.mem_bytes)
    ledger = ledger_with("one", "two")
    take(ledger, "a", ("one", 1))
    take(ledger, "b", ("two", 1))
    ledger.add(task("child", owner=Owner("w", "a", "one")), 1.0)
    assert ledger.deadlocked({"a"}, limit) == [], "the other may end, and make room"
    assert ledger.deadlocked({"a", "b"}, limit) == ["child"]
    assert ledger.deadlocked({"a", "b"}, Shape(16_000, 3 * SHAPE.mem_bytes)) == []
    assert ends(ledger.fail(["child"], TaskState.UNSCHEDULABLE, "no room")) == {"child": "UNSCHEDULABLE"}


def test_what_a_task_waits_for_goes_before_what_has_not_begun() -> None:
    ledger = ledger_with(*(f"t{number}" for number in range(20)))
    published(ledger)
    take(ledger, "a", ("t0", 1))
    ledger.add(task("child", owner=Owner("w", "a", "t0")), 1.0)
    assert published(ledger) == ["child"]
