"""What operators see and do: workers, the queue, users' limits."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from integration.gateway.rig import PATIENCE_S
from qonduit_api.v1 import cluster_pb2
from qonduit_service_kit.errors import ApiError, from_rpc_error
from qonduit_service_kit.messages import (
    ClusterReport,
    LeaseKind,
    Shape,
    UserLimited,
    WaitingView,
    WorkerDrain,
    WorkerView,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from integration.gateway.rig import Client, Cluster

SHAPE = Shape(4000, 2**32)


def report(*, draining: bool, leases: int = 0, waiting: tuple[WaitingView, ...] = ()) -> ClusterReport:
    view = WorkerView("w1", "host", SHAPE, Shape(1000, 2**30), leases, draining, "A", time.time())
    return ClusterReport(1, time.time(), (view,), waiting, len(waiting))


async def refusal(call: Any) -> ApiError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def states(
    admin: Client, *, until: cluster_pb2.WorkerState.ValueType, seen: Callable[[str], Awaitable[None]] | None = None
) -> list[str]:
    """Watch the workers until w1 has a state; return the states that it had, each once where it repeats.

    `seen` is called with each of them: what changes while nobody looks is seen as one change.
    """
    found: list[str] = []
    async with asyncio.timeout(PATIENCE_S):
        async for answer in admin.cluster.WatchWorkers(cluster_pb2.WatchWorkersRequest()):
            for worker in answer.workers:
                name = cluster_pb2.WorkerState.Name(worker.state)
                if found[-1:] != [name]:
                    found.append(name)
                    if seen is not None:
                        await seen(name)
                if worker.state == until:
                    return found
    raise AssertionError(found)


async def test_a_worker_is_drained_watched_and_resumed(admin: Client, cluster: Cluster) -> None:
    await cluster.say(report(draining=False))
    await states(admin, until=cluster_pb2.WORKER_STATE_OPEN)
    await admin.cluster.DrainWorker(cluster_pb2.DrainWorkerRequest(worker_id="w1"))
    told = await cluster.told(cluster.worker, WorkerDrain)
    assert (told.worker_id, told.draining) == ("w1", True)

    async def go_on(state: str) -> None:
        if state != "WORKER_STATE_DRAINED":
            await cluster.say(report(draining=True, leases=int(state == "WORKER_STATE_OPEN")))

    watched = await states(admin, until=cluster_pb2.WORKER_STATE_DRAINED, seen=go_on)
    assert watched == ["WORKER_STATE_OPEN", "WORKER_STATE_DRAINING", "WORKER_STATE_DRAINED"]

    await admin.cluster.ResumeWorker(cluster_pb2.ResumeWorkerRequest(worker_id="w1"))
    again = await cluster.told(cluster.worker, WorkerDrain)
    assert (again.draining, again.asked_at > told.asked_at) == (False, True)


async def test_orders_to_nobody_and_by_nobody_are_refused(admin: Client, client: Client, cluster: Cluster) -> None:
    await cluster.say(report(draining=False))
    await states(admin, until=cluster_pb2.WORKER_STATE_OPEN)
    for name in ("w2", "", "w" * 300):
        for call in (
            admin.cluster.DrainWorker(cluster_pb2.DrainWorkerRequest(worker_id=name)),
            admin.cluster.ResumeWorker(cluster_pb2.ResumeWorkerRequest(worker_id=name)),
        ):
            refused = await refusal(call)
            assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "WORKER_NOT_FOUND")
            assert "There are w1." in refused.text
    for call in (
        client.cluster.DrainWorker(cluster_pb2.DrainWorkerRequest(worker_id="w1")),
        client.cluster.ResumeWorker(cluster_pb2.ResumeWorkerRequest(worker_id="w1")),
        client.cluster.SetUserLimit(cluster_pb2.SetUserLimitRequest(name=client.name, cpu_millis=99_000)),
    ):
        assert (await refusal(call)).reason == "NOT_ADMINISTRATOR"


async def test_the_queue_tells_its_owner_and_administrators_why_and_others_only_how_much(
    admin: Client, client: Client, cluster: Cluster
) -> None:
    await client.upload()
    job_id = (await client.run()).job_id
    since = time.time() - 60
    waiting = WaitingView(job_id, 1, LeaseKind.EXECUTOR, SHAPE, 7, 1, "needs 4 cpu", client.name, since)
    other = WaitingView("not-theirs", 1, LeaseKind.DRIVER, SHAPE, 1, 2, "no room", "somebody", 0.0)
    watching = asyncio.create_task(states(admin, until=cluster_pb2.WORKER_STATE_DRAINED))
    await cluster.say(report(draining=True, waiting=(waiting, other)))
    await watching

    mine, theirs = (await client.cluster.GetQueue(cluster_pb2.GetQueueRequest())).entries
    assert (mine.job_id, mine.kind, mine.count, mine.position) == (job_id, "executor", 7, 1)
    assert (mine.why, mine.user) == ("needs 4 cpu", client.name)
    assert mine.since.ToNanoseconds() == pytest.approx(since * 1e9, abs=1000)
    assert (theirs.job_id, theirs.why, theirs.user, theirs.resources.cpu_millis) == ("", "", "", 4000)
    assert not theirs.HasField("since")
    entries = (await admin.cluster.GetQueue(cluster_pb2.GetQueueRequest())).entries
    assert [(entry.user, entry.why) for entry in entries] == [(client.name, "needs 4 cpu"), ("somebody", "no room")]


async def test_a_users_limit_goes_with_their_next_job(admin: Client, client: Client, cluster: Cluster) -> None:
    await client.upload()

    async def limit_of_a_job() -> Shape:
        return (await cluster.submitted((await client.run()).job_id)).limit

    async def set_limit(**limit: Any) -> Shape:
        answer = await admin.cluster.SetUserLimit(cluster_pb2.SetUserLimitRequest(name=client.name, **limit))
        return Shape(answer.user.limit.cpu_millis, answer.user.limit.mem_bytes, answer.user.limit.gpus)

    default = Shape(16_000, 32 * 2**30, 16)
    assert await limit_of_a_job() == default
    assert await set_limit(cpu_millis=32_000) == Shape(32_000, default.mem_bytes, 16)
    assert await set_limit(mem_bytes=64 * 2**30, gpus=0) == Shape(32_000, 64 * 2**30, 0)
    assert await limit_of_a_job() == Shape(32_000, 64 * 2**30, 0)
    users = (await admin.cluster.ListUsers(cluster_pb2.ListUsersRequest())).users
    assert {user.limit.cpu_millis for user in users if user.name == client.name} == {32_000}
    assert await set_limit(reset=True, gpus=1) == Shape(16_000, default.mem_bytes, 1)
    assert await set_limit(reset=True) == default
    assert await limit_of_a_job() == default


async def test_budgets_of_qpu_seconds_go_with_the_next_job(admin: Client, client: Client, cluster: Cluster) -> None:
    await client.upload()

    async def budgets_of_a_job(**asked: Any) -> tuple[float | None, float | None]:
        spec = await cluster.submitted((await client.run(**asked)).job_id)
        return spec.qpu_budget_s, spec.user_qpu_budget_s

    async def set_limit(**limit: Any) -> float:
        answer = await admin.cluster.SetUserLimit(cluster_pb2.SetUserLimitRequest(name=client.name, **limit))
        return answer.user.qpu_seconds_limit

    assert await budgets_of_a_job() == (None, None)
    assert await set_limit(qpu_seconds=600) == 600
    assert await set_limit(cpu_millis=1000) == 600
    assert await budgets_of_a_job(qpu_budget_seconds=2.5) == (2.5, 600)
    assert await set_limit(reset=True) == 0
    assert await budgets_of_a_job() == (None, None)


async def test_limits_of_jobs_hold_for_the_next_and_are_told_to_the_scheduler(
    admin: Client, client: Client, cluster: Cluster
) -> None:
    await client.upload()

    async def set_limit(**limit: Any) -> tuple[int, int, float]:
        answer = await admin.cluster.SetUserLimit(cluster_pb2.SetUserLimitRequest(name=client.name, **limit))
        user = answer.user
        return user.active_jobs_limit, user.running_jobs_limit, user.time_limit_seconds_limit

    week = 7 * 24 * 3600
    assert await set_limit(cpu_millis=1000) == (1000, 0, week)
    assert await set_limit(active_jobs=1, running_jobs=4, time_limit_seconds=30) == (1, 4, 30)
    assert await cluster.told(cluster.scheduler, UserLimited) == UserLimited(client.name, 4)
    asked = {"idempotency_key": "once", "time_limit_seconds": 30}
    job_id = (await client.run(**asked)).job_id
    spec = await cluster.submitted(job_id)
    assert (spec.user_running_jobs, spec.time_limit_s) == (4, 30)
    refused = await refusal(client.run())
    assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "ACTIVE_JOB_LIMIT")
    assert refused.metadata == {"active": "1", "limit": "1"}
    assert f"qonduit users limit {client.name} --active-jobs N" in refused.text
    assert await set_limit(time_limit_seconds=20) == (1, 4, 20)
    assert (await client.run(**asked)).job_id == job_id
    assert (await refusal(client.run(time_limit_seconds=21))).reason == "INVALID_TIME_LIMIT"
    assert await set_limit(reset=True) == (1000, 0, week)
    assert await cluster.told(cluster.scheduler, UserLimited) == UserLimited(client.name, None)
    assert (await cluster.submitted((await client.run()).job_id)).user_running_jobs is None


async def test_limits_that_cannot_be_meant_are_refused(admin: Client) -> None:
    for limit, field in (
        ({"cpu_millis": 0}, "cpu_millis"),
        ({"mem_bytes": 64}, "mem_bytes"),
        ({"gpus": -1}, "gpus"),
        ({"qpu_seconds": float("nan")}, "qpu_seconds"),
        ({"active_jobs": -1}, "active_jobs"),
        ({"running_jobs": -1}, "running_jobs"),
        ({"time_limit_seconds": 0.5}, "time_limit_seconds"),
        ({"time_limit_seconds": 604801}, "time_limit_seconds"),
    ):
        refused = await refusal(
            admin.cluster.SetUserLimit(cluster_pb2.SetUserLimitRequest(name="admin", **limit))  # type: ignore[arg-type]
        )
        assert (refused.reason, set(refused.violations)) == ("INVALID_LIMIT", {field})
    refused = await refusal(admin.cluster.SetUserLimit(cluster_pb2.SetUserLimitRequest(name="no one", gpus=1)))
    assert refused.reason == "USER_NOT_FOUND"
