from __future__ import annotations

from qonduit_service_kit.messages import TASKS_A_PAGE, Shape, Stage, TaskFunction, TaskResult, TaskState
from qonduit_service_kit.metrics import REGISTRY
from qonduit_worker.tasks.records import TaskPages
from qonduit_worker.tasks.task import Finished, Owner, Task

SHAPE = Shape(1000, 2**30)


def tasks(count: int) -> list[Task]:
    function = TaskFunction("f", "transpile", SHAPE)
    return [
        Task(f"t{number}", function, b"call", "", [], stage=Stage.MAPPING, number=number) for number in range(count)
    ]


def pages_of(several: list[Task], provider: str = "") -> TaskPages:
    pages = TaskPages("job", 2, provider=provider)
    for one in several:
        pages.add(one)
    return pages


def end(task: Task, outcome: str = "OK", text: str = "") -> Finished:
    return Finished(task, TaskResult(task.task_id, outcome, text=text), cpu_s=1.5, peak_mem_bytes=7)


def test_tasks_are_told_in_pages_by_their_numbers() -> None:
    first, second = pages_of(tasks(TASKS_A_PAGE + 1)).due()
    assert (first.job_id, first.job_attempt, first.page, first.revision, len(first.tasks)) == (
        "job",
        2,
        0,
        1,
        TASKS_A_PAGE,
    )
    assert [one.number for one in second.tasks] == [TASKS_A_PAGE]


def test_only_what_has_changed_is_told_again_and_with_the_next_revision() -> None:
    several = tasks(TASKS_A_PAGE + 1)
    pages = pages_of(several)
    pages.due()
    assert pages.due() == []
    several[0].state = TaskState.RUNNING
    pages.changed(several[0])
    (again,) = pages.due()
    assert (again.page, again.revision, again.tasks[0].state) == (0, 2, "RUNNING")


def test_a_record_says_how_a_task_went() -> None:
    (task,) = tasks(1)
    task.owner = Owner("w", "lease", "parent")
    task.worker_id, task.attempt, task.queued_at, task.started_at = "w2", 3, 10.0, 11.0
    pages = pages_of([task])
    pages.finished(end(task, "ERROR", "traceback\n" * 100 + "ValueError: no\n"), 12.0)
    ((record,),) = [page.tasks for page in pages.due()]
    assert (record.task_id, record.name, record.state, record.attempt) == ("t0", "transpile", "ERROR", 3)
    assert (record.queued_at, record.started_at, record.ended_at) == (10.0, 11.0, 12.0)
    assert (record.cpu_s, record.peak_mem_bytes, record.worker_id, record.parent_id) == (1.5, 7, "w2", "parent")
    assert (record.stage, record.shape) == (Stage.MAPPING, SHAPE)
    assert record.text.endswith("ValueError: no")
    assert len(record.text) <= 200


def test_what_a_task_of_a_providers_function_raised_is_not_shown_to_its_users() -> None:
    raised, lost = tasks(2)
    pages = pages_of([raised, lost], provider="lamps")
    pages.finished(end(raised, "ERROR", "ValueError: a secret"), 1.0)
    pages.finished(end(lost, "TIMEOUT", "ran longer than 3 s"), 1.0)
    ((first, second),) = [page.tasks for page in pages.due()]
    assert first.text == "The function's own code failed; its provider can see why."
    assert second.text == "ran longer than 3 s", "the system's own words are for everybody"


def test_a_full_page_is_forgotten_once_its_last_end_was_told() -> None:
    several = tasks(TASKS_A_PAGE + 1)
    pages = pages_of(several)
    for task in several[1:]:
        pages.finished(end(task), 1.0)
    assert {page.page: len(page.tasks) for page in pages.due()} == {0: TASKS_A_PAGE, 1: 1}
    pages.finished(end(several[0]), 2.0)
    (last,) = pages.due()
    assert (last.page, last.revision) == (0, 2)
    assert {one.state for one in last.tasks} == {"DONE"}
    assert pages.due() == []
    assert list(pages._pages) == [1], "the page that may still grow is kept"


def test_what_ended_is_counted_once_and_timed_if_it_ever_started() -> None:
    started, never = tasks(2)
    started.queued_at, started.started_at, started.losses = 10.0, 10.5, 2
    before = {name: counted(name) for name in ("done", "canceled", "losses", "queued", "ran")}
    pages = pages_of([started, never])
    pages.finished(end(started), 12.5)
    pages.finished(end(never, "CANCELED"), 12.5)
    after = {name: counted(name) - value for name, value in before.items()}
    assert after == {"done": 1, "canceled": 1, "losses": 2, "queued": 0.5, "ran": 2.0}


def counted(what: str) -> float:
    name, labels = {
        "done": ("qonduit_tasks_finished_total", {"state": "DONE"}),
        "canceled": ("qonduit_tasks_finished_total", {"state": "CANCELED"}),
        "losses": ("qonduit_task_losses_total", {}),
        "queued": ("qonduit_task_queue_seconds_sum", {}),
        "ran": ("qonduit_task_run_seconds_sum", {}),
    }[what]
    return REGISTRY.get_sample_value(name, labels) or 0.0
