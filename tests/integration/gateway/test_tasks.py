"""A job's tasks, as its driver's agent tells them and as its user sees them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from integration.gateway.rig import PATIENCE_S
from qonduit_api.v1 import jobs_pb2, types_pb2
from qonduit_service_kit.errors import from_rpc_error
from qonduit_service_kit.messages import (
    TASKS_A_PAGE,
    AttemptLost,
    EventKind,
    Shape,
    Stage,
    TaskRecord,
    TasksPage,
    TaskState,
)
from qonduit_service_kit.task_pages import packed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from integration.gateway.rig import Client, Cluster
    from qonduit_service_kit.messages import JobSpec


def record(number: int, state: TaskState, **more: Any) -> TaskRecord:
    values = {"name": "square", "attempt": 1, "shape": Shape(500, 2**30), "stage": Stage.MAPPING, **more}
    return TaskRecord(task_id=f"t{number}", number=number, state=state, **values)


async def tell(cluster: Cluster, spec: JobSpec, revision: int, *tasks: TaskRecord) -> None:
    """Say what an attempt's tasks are, as its driver's agent would."""
    for page in range(0, len(tasks), TASKS_A_PAGE):
        part = tasks[page : page + TASKS_A_PAGE]
        await cluster.say(packed(TasksPage(spec.job_id, spec.attempt, page // TASKS_A_PAGE, revision, part)))


async def listed(client: Client, job_id: str, **request: Any) -> list[jobs_pb2.Task]:
    """Read all pages."""
    asked = jobs_pb2.ListTasksRequest(job_id=job_id, **request)
    found: list[jobs_pb2.Task] = []
    while True:
        answer = await client.jobs.ListTasks(asked)
        found += answer.tasks
        asked.page_token = answer.next_page_token
        if not answer.next_page_token:
            return found


@pytest.fixture
async def running(client: Client, cluster: Cluster) -> JobSpec:
    await client.upload()
    spec = await cluster.submitted((await client.run()).job_id)
    await cluster.begin(spec)
    return spec


async def until_counted(client: Client, job_id: str, **counts: int) -> jobs_pb2.Job:
    """Watch until the job's tasks are counted so."""
    wanted = types_pb2.TaskCounts(**counts)
    async with asyncio.timeout(PATIENCE_S):
        async for answer in client.jobs.WatchJob(jobs_pb2.WatchJobRequest(job_id=job_id)):
            if answer.job.task_counts == wanted:
                return answer.job
    raise AssertionError(f"never {counts}")


async def test_watchers_see_the_counts_and_lists_the_tasks(client: Client, cluster: Cluster, running: JobSpec) -> None:
    job_id, now = running.job_id, time.time()
    assert not (await client.get(job_id)).HasField("task_counts")
    await tell(cluster, running, 1, record(0, TaskState.RUNNING), record(1, TaskState.WAITING))
    await until_counted(client, job_id, running=1, queued=1)
    done = record(
        0,
        TaskState.DONE,
        attempt=2,
        worker_id="w1",
        queued_at=now,
        started_at=now + 1,
        ended_at=now + 3,
        cpu_s=1.5,
        peak_mem_bytes=7,
    )
    failed = record(1, TaskState.ERROR, name="root", parent_id="t0", text="ValueError: no")
    await tell(cluster, running, 3, done, failed)
    await tell(cluster, running, 2, record(0, TaskState.QUEUED), record(1, TaskState.QUEUED))
    job = await until_counted(client, job_id, done=1, failed=1)
    assert job.revision == (await client.get(job_id)).revision

    first, second = await listed(client, job_id)
    assert (first.task_id, first.name, first.state, first.attempt, first.number) == (
        "t0",
        "square",
        types_pb2.TASK_STATE_DONE,
        2,
        0,
    )
    assert (first.worker_id, first.cpu_seconds, first.peak_mem_bytes, first.stage) == ("w1", 1.5, 7, 1)
    assert (first.resources.cpu_millis, first.resources.mem_bytes) == (500, 2**30)
    assert first.end_time.ToNanoseconds() - first.start_time.ToNanoseconds() == pytest.approx(2e9, abs=1000)
    assert (second.parent_task_id, second.error_text) == ("t0", "ValueError: no")
    assert not second.HasField("start_time")
    assert [task.number for task in await listed(client, job_id, states=[types_pb2.TASK_STATE_ERROR])] == [1]
    assert [task.number for task in await listed(client, job_id, name="square")] == [0]
    jobs = (await client.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs
    assert [(job.task_counts.done, job.task_counts.failed) for job in jobs] == [(1, 1)]


async def test_ten_thousand_tasks_are_listed_in_pages_and_found_by_state_and_name(
    client: Client, cluster: Cluster, running: JobSpec
) -> None:
    states = {7: TaskState.LOST, 4_321: TaskState.LOST, 9_999: TaskState.TIMEOUT}
    tasks = [record(n, states.get(n, TaskState.DONE), name="odd" if n in states else "even") for n in range(10_000)]
    await tell(cluster, running, 1, *tasks)
    await until_counted(client, running.job_id, done=9_997, failed=3)

    for size in (150, 1000):
        numbers = [task.number for task in await listed(client, running.job_id, page_size=size)]
        assert numbers == list(range(10_000))
    lost = [types_pb2.TASK_STATE_LOST]
    assert [task.number for task in await listed(client, running.job_id, states=lost)] == [7, 4_321]
    both = [*lost, types_pb2.TASK_STATE_TIMEOUT]
    numbers = [task.number for task in await listed(client, running.job_id, states=both, name="odd", page_size=1)]
    assert numbers == [7, 4_321, 9_999]
    assert await listed(client, running.job_id, name="none of that name") == []
    answer = await client.jobs.ListTasks(jobs_pb2.ListTasksRequest(job_id=running.job_id, states=lost))
    assert {types_pb2.TaskState.Name(each.state): each.count for each in answer.counts} == {
        "TASK_STATE_DONE": 9_997,
        "TASK_STATE_LOST": 2,
        "TASK_STATE_TIMEOUT": 1,
    }


async def test_the_end_of_a_job_comes_with_the_last_word_on_its_tasks(
    client: Client, cluster: Cluster, running: JobSpec
) -> None:
    watching = asyncio.create_task(client.until(running.job_id, "DONE"))
    await tell(cluster, running, 1, *(record(n, TaskState.RUNNING) for n in range(1000)))
    await tell(cluster, running, 2, *(record(n, TaskState.DONE) for n in range(999)), record(999, TaskState.QUEUED))
    await cluster.tell(running, EventKind.FINISHED)
    job = await watching
    assert (job.task_counts.done, job.task_counts.canceled, job.task_counts.queued) == (999, 1, 0)
    (left,) = await listed(client, running.job_id, states=[types_pb2.TASK_STATE_CANCELED])
    assert (left.number, left.error_text) == (999, "Its job's attempt was over before it.")


async def test_each_attempt_has_tasks_of_its_own(client: Client, cluster: Cluster, running: JobSpec) -> None:
    await tell(cluster, running, 5, record(0, TaskState.DONE), record(1, TaskState.RUNNING))
    await until_counted(client, running.job_id, done=1, running=1)
    await cluster.say(AttemptLost(running.job_id, 1, "w1", "gone"))
    second = await cluster.submitted(running.job_id, attempt=2)
    assert not (await client.get(running.job_id)).HasField("task_counts")
    await tell(cluster, second, 1, record(0, TaskState.QUEUED))
    await until_counted(client, running.job_id, queued=1)
    now = [task.state for task in await listed(client, running.job_id)]
    before = [task.state for task in await listed(client, running.job_id, attempt=1)]
    assert now == [types_pb2.TASK_STATE_QUEUED]
    assert before == [types_pb2.TASK_STATE_DONE, types_pb2.TASK_STATE_CANCELED]


async def test_what_is_wrong_with_a_request_is_said(
    client: Client, new_user: Callable[[], Awaitable[Client]], running: JobSpec
) -> None:
    stranger = await new_user()
    for who, request, reason, text in (
        (stranger, {}, "JOB_NOT_FOUND", running.job_id),
        (client, {"job_id": "nothing"}, "JOB_NOT_FOUND", "nothing"),
        (client, {"states": [99]}, "INVALID_TASK_STATE", "WAITING, QUEUED, RUNNING, DONE, ERROR"),
        (client, {"states": [0]}, "INVALID_TASK_STATE", "number 0"),
        (client, {"attempt": 2}, "INVALID_ATTEMPT", "attempts 1 to 1"),
        (client, {"attempt": -1}, "INVALID_ATTEMPT", "attempts 1 to 1"),
        (client, {"page_token": "x"}, "INVALID_PAGE_TOKEN", "damaged"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await who.jobs.ListTasks(jobs_pb2.ListTasksRequest(**{"job_id": running.job_id, **request}))
        refusal = from_rpc_error(caught.value)
        assert (refusal.reason, text in refusal.text) == (reason, True), refusal.text
