from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st
from qonduit_service_kit.messages import Shape, TaskFunction
from qonduit_worker.tasks.batching import BATCH_S, MOST_BYTES, MOST_TASKS, RunTimes, batch_size, put_in_order
from qonduit_worker.tasks.task import Owner, Task

SHAPE = Shape(1000, 2**30)


def tasks(count: int, function_id: str = "f", size_bytes: int = 10) -> list[Task]:
    function = TaskFunction(function_id, function_id, SHAPE)
    return [Task(f"{function_id}{number}", function, bytes(size_bytes), "", []) for number in range(count)]


def times(**mean_s: float) -> RunTimes:
    known = RunTimes()
    for function_id, run_s in mean_s.items():
        known.note(function_id, run_s)
    return known


def test_a_task_of_a_function_that_has_not_run_goes_alone() -> None:
    assert batch_size(tasks(100), RunTimes(), 2) == (1, 0.0)


def test_a_long_task_goes_alone() -> None:
    assert batch_size(tasks(100), times(f=BATCH_S * 2), 2) == (1, BATCH_S * 2)


def test_tiny_tasks_travel_many_to_a_message_up_to_a_bound() -> None:
    assert batch_size(tasks(10_000), times(f=0.0), 2) == (MOST_TASKS, 0.0)


def test_a_batch_holds_so_much_work_and_no_more() -> None:
    count, expected_s = batch_size(tasks(10_000), times(f=BATCH_S / 10), 2)
    assert 9 <= count <= 10
    assert expected_s <= BATCH_S


def test_a_batch_is_no_more_than_an_equal_share_of_half_of_what_is_left() -> None:
    assert batch_size(tasks(40), times(f=0.0), 4)[0] == 5
    assert batch_size(tasks(40), times(f=0.0), 0)[0] == 10, "two executors may come"
    assert batch_size(tasks(1), times(f=0.0), 50)[0] == 1


def test_a_batch_fits_in_a_message() -> None:
    count, _ = batch_size(tasks(1000, size_bytes=MOST_BYTES // 4), times(f=0.0), 2)
    assert count == 4
    assert batch_size(tasks(1000, size_bytes=MOST_BYTES * 2), times(f=0.0), 2)[0] == 1


def test_a_batch_ends_before_a_task_that_nothing_is_known_of_or_that_is_long() -> None:
    for other in (RunTimes(), times(g=1.0)):
        other.note("f", 0.0)
        assert batch_size([*tasks(3), *tasks(100, "g")], other, 2)[0] == 3


def test_the_mean_rises_fast_and_falls_slowly() -> None:
    known = times(f=0.001)
    known.note("f", 1.0)
    risen = known.expected_s("f")
    known.note("f", 0.001)
    fallen = known.expected_s("f")
    assert risen is not None
    assert fallen is not None
    assert risen > 0.4
    assert risen > fallen > 0.4
    assert known.expected_s("unknown") is None
    assert known.last_two_s("f") == (1.0 + 0.001) / 2
    assert known.last_two_s("unknown") == 0.0


def test_a_short_wait_for_large_values_is_no_work_and_a_long_one_is() -> None:
    known = RunTimes()
    known.note("f", 0.015, 0.0145)
    known.note("g", 1.0, 0.999)
    assert batch_size(tasks(1000), known, 2)[0] > 30, "a busy agent gets no message for each"
    assert batch_size(tasks(1000, "g"), known, 2)[0] == 1, "a network is as slow for each"


@given(
    st.lists(st.tuples(st.sampled_from("fgh"), st.integers(0, 50_000)), min_size=1, max_size=600),
    st.dictionaries(st.sampled_from("fgh"), st.floats(0, 1)),
    st.integers(0, 100),
)
def test_whatever_waits_a_batch_is_neither_empty_nor_too_large(
    waiting: list[tuple[str, int]], mean_s: dict[str, float], executors: int
) -> None:
    ready = [tasks(1, function_id, size_bytes)[0] for function_id, size_bytes in waiting]
    count, expected_s = batch_size(ready, times(**mean_s), executors)
    assert 1 <= count <= min(len(ready), MOST_TASKS)
    if count > 1:
        assert expected_s <= BATCH_S
        assert sum(one.size_bytes for one in ready[:count]) <= MOST_BYTES


# --- The order in which they begin -------------------------------------------------------------


def in_order(*several: Task, **mean_s: float) -> list[str]:
    ready = OrderedDict((task.task_id, task) for task in several)
    put_in_order(ready, times(**mean_s))
    return list(ready)


def sized(task_id: str, size_bytes: int, *, apart: tuple[str, ...] = (), **fields: int | Owner) -> Task:
    task = Task(task_id, TaskFunction("f", "f", SHAPE), bytes(size_bytes), "", [], apart=apart)
    for name, value in fields.items():
        setattr(task, name, value)
    return task


def test_of_long_tasks_the_longer_functions_and_then_the_larger_calls_go_first() -> None:
    small, large = tasks(1, "f", 10) + tasks(1, "g", 1000)
    assert in_order(sized("small", 1), sized("large", 1000), sized("equal", 1000), f=5.0) == ["large", "equal", "small"]
    assert in_order(large, small, f=5.0, g=1.0) == [small.task_id, large.task_id]


def test_arguments_too_large_for_a_message_count_as_the_largest() -> None:
    assert in_order(sized("inline", 1000), sized("apart", 1, apart=("d" * 64,)), f=5.0) == ["apart", "inline"]


def test_what_others_wait_for_stays_in_front_of_longer_tasks() -> None:
    child, lost = sized("child", 1, owner=Owner("w", "lease", "parent")), sized("lost", 1, attempt=2)
    assert in_order(child, lost, sized("large", 1000), f=5.0) == ["child", "lost", "large"]


def test_short_tasks_and_those_of_which_nothing_is_known_stay_in_their_order() -> None:
    several = sized("small", 1), sized("large", 1000)
    assert in_order(*several, f=BATCH_S) == ["small", "large"]
    assert in_order(*several) == ["small", "large"]
