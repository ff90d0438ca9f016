"""The commands of operators and those about tasks, against a gateway in this process."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from qonduit import cli
from qonduit_api.v1 import cluster_pb2, jobs_pb2, types_pb2

if TYPE_CHECKING:
    from conftest import Run
    from fake_gateway import FakeGateway


def task(number: int, state: str, name: str = "square", text: str = "") -> jobs_pb2.Task:
    value = types_pb2.TaskState.Value(f"TASK_STATE_{state}")
    return jobs_pb2.Task(number=number, name=name, state=value, attempt=1, error_text=text)


def test_tasks_as_a_table_and_as_json(run: Run, gateway: FakeGateway) -> None:
    gateway.state.change("abcdef-1", "RUNNING")
    tasks = [task(n, "ERROR" if n == 4 else "DONE", text="ValueError: four" if n == 4 else "") for n in range(9)]
    gateway.state.set_tasks("abcdef-1", *tasks, done=8, failed=1)
    code, out, said = run("tasks", "abcdef")
    assert (code, len(out.splitlines())) == (cli.OK, 10)
    assert "ValueError: four" in out
    assert said == "8 DONE, 1 ERROR\n"
    (failed,) = json.loads(run("tasks", "abcdef-1", "--state", "error", "-o", "json")[1])
    assert (failed["number"], failed["state"], failed["error_text"]) == (4, "ERROR", "ValueError: four")
    assert len(json.loads(run("tasks", "abcdef-1", "--name", "square", "--json")[1])) == 9
    assert run("tasks", "abcdef-1", "--name", "none")[1] == "none\n"
    assert "tasks     8/9, 1 failed" in run("job", "show", "abcdef-1")[1]


def test_watched_tasks_are_told_as_they_change_until_the_job_is_over(run: Run, gateway: FakeGateway) -> None:
    gateway.state.change("job-1", "RUNNING")
    gateway.state.set_tasks("job-1", task(0, "RUNNING"), task(1, "QUEUED"), running=1, queued=1)

    def go_on() -> None:
        gateway.state.await_watchers(1)
        gateway.state.set_tasks("job-1", task(0, "DONE"), task(1, "DONE"), done=2)
        gateway.state.change("job-1", "DONE")

    thread = threading.Thread(target=go_on)
    thread.start()
    code, out, _ = run("tasks", "job-1", "--watch", "-o", "json")
    thread.join()
    told = [(task["number"], task["state"]) for task in map(json.loads, out.splitlines())]
    assert code == cli.OK
    assert told[-2:] == [(0, "DONE"), (1, "DONE")]
    assert len(told) == len(set(told))


def test_a_followed_job_shows_its_tasks(run: Run, gateway: FakeGateway) -> None:
    gateway.state.change("job-1", "RUNNING")
    gateway.state.logs["job-1"] = b"hello\n"
    gateway.state.results["job-1"] = b"{}"
    gateway.state.set_tasks("job-1", done=37, running=2, queued=25)

    def go_on() -> None:
        gateway.state.await_watchers(1)
        gateway.state.set_tasks("job-1", done=64)
        gateway.state.change("job-1", "DONE")

    thread = threading.Thread(target=go_on)
    thread.start()
    code, out, said = run("job", "watch", "job-1")
    thread.join()
    assert (code, out) == (cli.OK, "hello\n")
    assert said.splitlines()[-1].endswith("tasks 64/64")


def test_the_log_of_one_task(run: Run, gateway: FakeGateway) -> None:
    gateway.state.change("job-1", "DONE")
    gateway.state.logs["job-1"] = b"begin\n[task 1 f] one\n[task 12 g] twelve\n"
    assert run("job", "logs", "job-1", "--task", "12")[1] == "[task 12 g] twelve\n"
    assert run("job", "logs", "job-1", "--task", "f")[1] == "[task 1 f] one\n"


def test_a_worker_is_drained_and_resumed(run: Run, gateway: FakeGateway) -> None:
    gateway.state.set_worker("w1", "open", leases=3)
    code, out, _ = run("workers")
    assert code == cli.OK
    assert "open" in out
    assert "12 cpu, 16.0 GiB" in out
    assert run("worker", "drain", "w1")[0] == cli.OK
    assert "draining" in run("workers")[1]

    def go_on() -> None:
        gateway.state.await_watchers(1)
        gateway.state.set_worker("w1", "drained")

    thread = threading.Thread(target=go_on)
    thread.start()
    code, out, _ = run("worker", "drain", "w1", "--wait")
    thread.join()
    assert (code, out) == (cli.OK, "Nothing runs on w1.\n")
    assert run("worker", "resume", "w1")[:2] == (cli.OK, "w1 takes work.\n")
    assert json.loads(run("workers", "--json")[1])[0]["state"] == "open"


def test_waiting_for_a_worker_that_goes_away_ends(run: Run, gateway: FakeGateway) -> None:
    gateway.state.set_worker("w1", "open", leases=3)

    def go_away() -> None:
        gateway.state.await_watchers(1)
        with gateway.state.changed:
            gateway.state.workers = []
            gateway.state.changed.notify_all()

    thread = threading.Thread(target=go_away)
    thread.start()
    assert run("worker", "drain", "w1", "--wait")[0] == cli.OK
    thread.join()


def test_the_queue_tells_who_waits_how_long_and_why(run: Run, gateway: FakeGateway) -> None:
    gateway.state.queue = [
        cluster_pb2.QueueEntry(
            job_id="job-1",
            kind="executor",
            resources=types_pb2.Resources(cpu_millis=500, mem_bytes=2**30),
            count=7,
            position=1,
            why="needs 0.5 cpu; the largest free is 0 on w1",
            user="ada",
            since=Timestamp(seconds=int(time.time()) - 190),
        ),
        cluster_pb2.QueueEntry(kind="driver", count=1, position=2),
    ]
    _, first, second = run("queue")[1].splitlines()
    assert first.split()[0] == "1"
    for part in ("job-1", "ada", "executor", "7", "0.5 cpu, 1.0 GiB", "3 min", "the largest free is 0 on w1"):
        assert part in first
    assert "(another user's)" in second
    entries = json.loads(run("queue", "--json")[1])
    assert [(entry["user"], entry["since"] is None) for entry in entries] == [("ada", False), ("", True)]


def test_a_users_limit_is_set_part_by_part(run: Run, gateway: FakeGateway) -> None:
    gateway.state.people.users["ada"] = cluster_pb2.User(name="ada")
    out = run("users", "limit", "ada", "--default", "--cpu", "32")[1]
    assert out == "The tasks of each job of ada hold at most 32 cpu, 32.0 GiB together.\n"
    assert "32 cpu, 64.0 GiB, 2 GPU" in run("users", "limit", "ada", "--mem", "64GiB", "--gpus", "2")[1]
    assert "32 cpu, 64.0 GiB, 2 GPU" in run("users", "ls")[1]
    assert "no limit" in run("users", "ls")[1]
    assert "ada may use 600 QPU seconds in any 28 days.\n" in run("users", "limit", "ada", "--qpu-seconds", "600")[1]
    assert "600" in run("users", "ls")[1]
    assert "ada may use QPUs without limit.\n" in run("users", "limit", "ada", "--qpu-seconds", "0")[1]
    assert "files of ada have at most 2.0 GiB together.\n" in run("users", "limit", "ada", "--files", "2GiB")[1]
    assert "2.0 GiB" in run("users", "ls")[1]
    assert "files of ada may have as much as fits.\n" in run("users", "limit", "ada", "--files", "0")[1]
    assert "ada may have 50 jobs that are not over.\n" in run("users", "limit", "ada", "--active-jobs", "50")[1]
    assert "ada may have 1 job running at a time" in run("users", "limit", "ada", "--running-jobs", "1")[1]
    assert "ada may have 4 jobs running at a time" in run("users", "limit", "ada", "--running-jobs", "4")[1]
    assert "A job of ada may run for 7,200 s.\n" in run("users", "limit", "ada", "--time-limit", "7200")[1]
    row = run("users", "ls")[1].splitlines()[1]
    assert [each.strip() for each in ("50", " 4", "7,200 s") if each in row] == ["50", "4", "7,200 s"]
    (ada,) = json.loads(run("users", "ls", "--json")[1])
    assert (ada["active_jobs_limit"], ada["running_jobs_limit"], ada["time_limit_s"]) == (50, 4, 7200)
    assert "ada may have any number of jobs.\n" in run("users", "limit", "ada", "--active-jobs", "0")[1]
    assert "ada may have any number of jobs running.\n" in run("users", "limit", "ada", "--running-jobs", "0")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["tasks", "nothing"], cli.FAILED, "nothing"),
        (["tasks", "job-1", "--state", "SLEEPING"], cli.USAGE, "RUNNING, DONE, ERROR"),
        (["tasks", "job-1", "-o", "xml"], cli.USAGE, "json"),
        (["worker", "drain", "w2"], cli.FAILED, "There are w1."),
        (["worker", "resume", "w2"], cli.FAILED, "There are w1."),
        (["users", "limit", "ada"], cli.USAGE, "--cpu"),
        (["users", "limit", "ada", "--cpu", "0"], cli.USAGE, "above 0"),
        (["users", "limit", "ada", "--cpu", "nan"], cli.USAGE, "above 0"),
        (["users", "limit", "ada", "--qpu-seconds", "-1"], cli.USAGE, "not be negative"),
        (["users", "limit", "ada", "--time-limit", "0.5"], cli.USAGE, "at least a second"),
        (["users", "limit", "ada", "--active-jobs", "-1"], cli.USAGE, "active-jobs"),
        (["users", "limit", "ada", "--mem", "lots"], cli.USAGE, "512M"),
        (["users", "limit", "ada", "--files", "lots"], cli.USAGE, "512M"),
        (["users", "limit", "ada", "--gpus", "1"], cli.FAILED, "ada"),
    ],
)
def test_bad_input_is_told_in_a_line(
    run: Run, gateway: FakeGateway, arguments: list[str], code: int, text: str
) -> None:
    gateway.state.change("job-1", "RUNNING")
    gateway.state.set_worker("w1", "open")
    got, _, complaint = run(*arguments)
    assert (got, text in complaint) == (code, True), complaint
    assert "Traceback" not in complaint
