"""What a user sees of a job's tasks, in Python."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from qonduit.exceptions import JobNotFoundError
from qonduit.job import Job
from qonduit.job_tasks import TaskCounts
from qonduit.task_log import TaskLines
from qonduit_api.v1 import jobs_pb2, types_pb2

if TYPE_CHECKING:
    from fake_gateway import FakeGateway
    from qonduit import ServerlessClient

BEGAN = 1_700_000_000


def task(number: int, state: str = "DONE", name: str = "square", **more: object) -> jobs_pb2.Task:
    value = types_pb2.TaskState.Value(f"TASK_STATE_{state}")
    return jobs_pb2.Task(number=number, task_id=f"t{number}", name=name, state=value, attempt=1, **more)  # type: ignore[arg-type]


@pytest.fixture
def job(gateway: FakeGateway, client: ServerlessClient) -> Job:
    gateway.state.change("j", "RUNNING")
    return client.job("j")


def test_a_task_tells_how_long_it_waited_and_ran_and_what_it_used(gateway: FakeGateway, job: Job) -> None:
    times = {
        "queue_time": Timestamp(seconds=BEGAN),
        "start_time": Timestamp(seconds=BEGAN + 2),
        "end_time": Timestamp(seconds=BEGAN + 7),
    }
    used = {"cpu_seconds": 4.5, "peak_mem_bytes": 3 * 2**20, "worker_id": "w1", "stage": types_pb2.STAGE_MAPPING}
    asked = types_pb2.Resources(cpu_millis=500, mem_bytes=2**30)
    failed = task(1, "ERROR", "root", error_text="ValueError: no", parent_task_id="t0")
    gateway.state.set_tasks("j", task(0, resources=asked, **times, **used), failed, done=1, failed=1)
    first, second = job.tasks()
    assert (first.queue_s, first.run_s, first.cpu_s, first.peak_mem_bytes) == (2.0, 5.0, 4.5, 3 * 2**20)
    assert (first.worker, first.stage, first.cpu, first.mem_bytes) == ("w1", "MAPPING", 0.5, 2**30)
    assert first.ended == datetime.fromtimestamp(BEGAN + 7, UTC)
    assert (second.state, second.error_text, second.parent_id) == ("ERROR", "ValueError: no", "t0")
    assert (second.queue_s, second.run_s, second.queued) == (0.0, 0.0, None)
    text = repr(job.tasks())
    assert "3 MiB" in text
    assert "ValueError: no" in text
    assert "2 tasks: 1 DONE, 1 ERROR" in text
    assert "<td>root</td>" in job.tasks()._repr_html_()


def test_tasks_are_fetched_as_they_are_looked_at(gateway: FakeGateway, job: Job) -> None:
    gateway.state.set_tasks("j", *(task(number) for number in range(100)), done=100)
    tasks = job.tasks()
    assert tasks[0].number == 0
    assert [each.number for each in tasks[1:3]] == [1, 2]
    assert gateway.state.task_calls == 1
    assert tasks[10].number == 10
    assert gateway.state.task_calls == 4
    assert "..." in repr(tasks)
    assert "100 tasks: 100 DONE" in repr(tasks)
    assert gateway.state.task_calls == 7
    assert [each.number for each in tasks] == list(range(100))
    assert (len(tasks), tasks[-1].number) == (100, 99)
    assert gateway.state.task_calls == 34
    assert len(job.tasks()[:]) == 100
    assert [each.number for each in job.tasks()[-2:]] == [98, 99]
    with pytest.raises(IndexError):
        _ = job.tasks()[100]


def test_tasks_are_chosen_by_state_and_name(gateway: FakeGateway, job: Job) -> None:
    tasks = [task(0), task(1, "ERROR"), task(2, "ERROR", "root"), task(3, "LOST", "root")]
    gateway.state.set_tasks("j", *tasks, done=1, failed=3)
    assert [each.number for each in job.tasks("error")] == [1, 2]
    assert [each.number for each in job.tasks(["ERROR", "LOST"], name="root")] == [2, 3]
    assert job.tasks("ERROR").counts == {"DONE": 1, "ERROR": 2, "LOST": 1}
    assert not job.tasks("TIMEOUT")
    with pytest.raises(ValueError, match="'SLEEPING'; there are WAITING, QUEUED, RUNNING, DONE, ERROR"):
        job.tasks("SLEEPING")


def test_tasks_of_no_job_and_a_job_without_tasks(client: ServerlessClient, job: Job) -> None:
    with pytest.raises(JobNotFoundError):
        Job("nothing", client).tasks()
    assert list(job.tasks()) == []
    assert repr(job.tasks()).endswith("no tasks")


def test_who_watches_sees_new_counts_and_who_follows_only_statuses(gateway: FakeGateway, job: Job) -> None:
    changes = job.watch(timeout=60)
    assert next(changes).task_counts == TaskCounts()
    gateway.state.set_tasks("j", task(0, "RUNNING"), running=1, queued=63)
    assert str(next(changes).task_counts) == "tasks 0/64, 1 running"
    gateway.state.set_tasks("j", task(0), done=37, running=2, queued=23, failed=1, canceled=1)
    assert str(next(changes).task_counts) == "tasks 37/64, 2 running, 1 failed, 1 canceled"
    gateway.state.change("j", "DONE")
    assert [snapshot.status for snapshot in changes] == ["DONE"]
    assert list(job.follow()) == ["DONE"]


LOG = """begin
[task 1 square] one
[task 12 square] twelve
[task 12 square] [task 1 square] quoted
[task 1 root mean] named with a blank
 [task 1 square] not at the beginning
[task 1 square]without a blank
[task 1x square] no number
[task 1 square] the last has no end"""


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
@pytest.mark.parametrize(
    ("chosen", "lines"), [(1, (1, 4, 8)), (12, (2, 3)), ("square", (1, 2, 3, 8)), ("root mean", (4,)), ("mean", ())]
)
def test_the_lines_of_a_task_are_found_however_the_log_is_cut(
    chosen: int | str, lines: tuple[int, ...], size: int
) -> None:
    found = TaskLines(chosen)
    text = "".join(found.feed(LOG[start : start + size]) for start in range(0, len(LOG), size)) + found.end()
    whole = LOG.splitlines(keepends=True)
    assert text == "".join(whole[line] for line in lines)


def test_of_a_long_line_little_is_kept(gateway: FakeGateway, job: Job) -> None:
    found = TaskLines(3)
    assert found.feed("[task 3 f] ") == "[task 3 f] "
    assert [found.feed("x" * 1000), found.feed("y\n")] == ["x" * 1000, "y\n"]
    assert [found.feed("z" * 1000), len(found._head)] == ["", 0]
    gateway.state.set_tasks("j", task(12), done=1)
    gateway.state.logs["j"] = LOG.encode()
    assert job.logs(task=job.tasks()[0]) == "".join(LOG.splitlines(keepends=True)[2:4])
    assert job.logs(task=job.tasks()[0], tail=1) == LOG.splitlines(keepends=True)[3]
    assert job.logs(task="nothing of that name") == ""
    assert job.logs() == LOG
