from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from qonduit_service_kit.messages import Shape, Stage, TaskCall, TaskOutcome, TaskReply
from qonduit_worker.tasks.ledger import MAX_LOSSES, Finished, SendAgain, TaskLedger

SHAPE = Shape(1000, 2**30)


def call(task_id: str = "t", attempt: int = 1) -> TaskCall:
    return TaskCall(task_id, attempt, "f", Stage.MAPPING, b"call")


def ok(task_id: str = "t", attempt: int = 1) -> TaskReply:
    return TaskReply(task_id, attempt, TaskOutcome.OK, value=b"v")


def died(task_id: str = "t", attempt: int = 1) -> TaskReply:
    return TaskReply(task_id, attempt, TaskOutcome.EXECUTOR_DIED, text="signal 9")


def ledger_with(*task_ids: str) -> TaskLedger:
    ledger = TaskLedger()
    for task_id in task_ids:
        ledger.add(call(task_id), SHAPE)
    return ledger


def test_a_value_is_committed_once() -> None:
    ledger = ledger_with("t")
    ledger.taken("lease", [("t", 1)])
    first, second = ledger.reply("lease", ok()), ledger.reply("lease", ok())
    assert isinstance(first, Finished)
    assert first.value == b"v"
    assert second is None
    assert ledger.unfinished(SHAPE) == 0


def test_a_lost_lease_sends_its_tasks_again_and_no_other() -> None:
    ledger = ledger_with("a", "b", "c")
    ledger.taken("one", [("a", 1)])
    ledger.taken("two", [("b", 1)])
    decisions = ledger.lost("one", "its worker was lost")
    assert [decision.task.task_id for decision in decisions] == ["a"]
    assert decisions[0].task.call.attempt == 2
    assert {task.task_id for task in ledger.queued()} == {"a", "c"}


def test_a_task_that_kills_its_executors_fails_with_that_reason() -> None:
    ledger = ledger_with("t")
    for attempt in range(1, MAX_LOSSES + 1):
        ledger.taken("lease", [("t", attempt)])
        assert isinstance(ledger.reply("lease", died(attempt=attempt)), SendAgain)
    ledger.taken("lease", [("t", MAX_LOSSES + 1)])
    last = ledger.reply("lease", died(attempt=MAX_LOSSES + 1))
    assert isinstance(last, Finished)
    assert last.outcome == TaskOutcome.EXECUTOR_DIED
    assert f"{MAX_LOSSES + 1} times" in last.text
    assert "signal 9" in last.text


def test_a_task_given_back_unstarted_is_no_loss() -> None:
    ledger = ledger_with("t")
    for attempt in range(1, 20):
        ledger.taken("lease", [("t", attempt)])
        decision = ledger.reply("lease", TaskReply("t", attempt, TaskOutcome.RETURNED))
        assert isinstance(decision, SendAgain)
    assert isinstance(ledger.reply("lease", ok(attempt=20)), Finished)


def test_a_late_loss_of_an_older_attempt_changes_nothing() -> None:
    ledger = ledger_with("t")
    ledger.taken("one", [("t", 1)])
    ledger.lost("one", "lost")
    ledger.taken("two", [("t", 2)])
    assert ledger.reply("one", died(attempt=1)) is None
    assert isinstance(ledger.reply("one", ok(attempt=1)), Finished), "its value is good all the same"


def test_a_lease_that_was_lost_before_its_word_came_keeps_nothing() -> None:
    ledger = ledger_with("t")
    assert ledger.lost("dead", "its worker was silent") == []
    decisions = ledger.taken("dead", [("t", 1)])
    assert [(decision.task.call.attempt, decision.task.losses) for decision in decisions] == [(2, 0)]
    assert ledger.owners(SHAPE) == frozenset()
    assert isinstance(ledger.reply("dead", ok(attempt=1)), Finished)


def test_owners_are_the_leases_that_own_tasks_of_a_shape() -> None:
    ledger = ledger_with("a", "b", "c")
    ledger.taken("one", [("a", 1), ("b", 1)])
    ledger.taken("two", [("b", 1), ("c", 1)])
    assert ledger.owners(SHAPE) == {"one", "two"}
    ledger.reply("one", ok("a"))
    assert ledger.owners(SHAPE) == {"two"}
    ledger.lost("two", "gone")
    assert ledger.owners(SHAPE) == frozenset()
    assert ledger.inline_bytes == 2 * len(b"call")


def test_out_of_memory_ends_a_task_at_once() -> None:
    ledger = ledger_with("t")
    decision = ledger.reply("lease", TaskReply("t", 1, TaskOutcome.OUT_OF_MEMORY, text="too much"))
    assert isinstance(decision, Finished)
    assert (decision.outcome, decision.text) == (TaskOutcome.OUT_OF_MEMORY, "too much")


def test_a_refused_shape_ends_its_tasks_with_the_numbers() -> None:
    ledger = ledger_with("a", "b")
    other = Shape(2000, 2**30)
    ledger.add(call("c"), other)
    finished = ledger.refuse(SHAPE, "needs 64 cpu")
    assert {(f.task.task_id, f.text) for f in finished} == {("a", "needs 64 cpu"), ("b", "needs 64 cpu")}
    assert (ledger.unfinished(SHAPE), ledger.unfinished(other)) == (0, 1)


TASK_IDS = st.sampled_from(["a", "b", "c"])
LEASES = st.sampled_from(["one", "two"])
ATTEMPTS = st.integers(1, 6)
EVENTS = st.one_of(
    st.tuples(st.just("taken"), LEASES, TASK_IDS, ATTEMPTS),
    st.tuples(st.just("lost"), LEASES),
    st.tuples(st.just("reply"), LEASES, TASK_IDS, ATTEMPTS, st.sampled_from(list(TaskOutcome))),
)


@given(st.lists(EVENTS, max_size=60))
def test_whatever_comes_each_task_ends_once_and_its_attempts_only_rise(events: list[tuple[object, ...]]) -> None:
    ledger = ledger_with("a", "b", "c")
    ended: list[str] = []
    attempts = dict.fromkeys("abc", 1)
    for event in events:
        match event:
            case ("taken", str(lease), str(task_id), int(attempt)):
                decisions = list(ledger.taken(lease, [(task_id, attempt)]))
            case ("lost", str(lease)):
                decisions = list(ledger.lost(lease, "lost"))
            case ("reply", str(lease), str(task_id), int(attempt), TaskOutcome() as outcome):
                decision = ledger.reply(lease, TaskReply(task_id, attempt, outcome))
                decisions = [] if decision is None else [decision]
            case _:
                raise AssertionError(event)
        for decision in decisions:
            if isinstance(decision, Finished):
                ended.append(decision.task.task_id)
            else:
                assert decision.task.call.attempt == attempts[decision.task.task_id] + 1
                attempts[decision.task.task_id] += 1
    assert len(ended) == len(set(ended))
    assert ledger.unfinished(SHAPE) == 3 - len(ended)
