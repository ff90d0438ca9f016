"""What is left when something around the gateway breaks."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from integration.gateway.rig import PATIENCE_S, Client, Cluster
from qonduit_api.v1 import cluster_pb2, jobs_pb2
from qonduit_service_kit.bus import GATEWAY_INBOX, SCHEDULER_INBOX
from qonduit_service_kit.errors import from_rpc_error
from qonduit_service_kit.messages import GATEWAY, ClusterReport, EventKind, LeaseKind, Shape, WaitingView, WorkerView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from integration.gateway.rig import Service
    from qonduit_service_kit.bus import Queue


SETTINGS = {"TELL_AGAIN_S": "0.5", "SWEEP_INTERVAL_S": "0.2", "DATABASE_BUSY_TIMEOUT_S": "0.5", "QPU_TIMEOUT_S": "1"}


@pytest.fixture
def gateway(tmp_path: Path, new_gateway: Callable[..., Service], bus_url: str) -> Iterator[Service]:
    """A gateway that may be broken, impatient enough for tests."""
    service = new_gateway(tmp_path, bus_url, **SETTINGS)
    yield service
    service.stop()


@pytest.fixture
async def client(admin: Client) -> Client:
    return admin


@pytest.fixture
def module_bus_url(bus_url: str) -> str:
    return bus_url


async def test_a_job_survives_a_kill_right_after_the_reply_and_is_announced_after_the_restart(
    client: Client, gateway: Service, bus_url: str
) -> None:
    await client.upload()
    job = await client.run()
    gateway.kill()
    gateway.start()
    late = Cluster(bus_url)
    await late.start()
    try:
        assert (await late.submitted(job.job_id)).attempt == 1
        assert (await client.get(job.job_id)).status == "QUEUED"
    finally:
        await late.stop()


async def test_a_job_whose_announcement_was_wiped_from_rabbitmq_is_announced_again(
    client: Client, bus_url: str
) -> None:
    await client.upload()
    job = await client.run()
    late = Cluster(bus_url)
    await late.bus.start()
    try:
        await _until_waiting(late, SCHEDULER_INBOX)
        await late.bus.delete(SCHEDULER_INBOX)
        await late.start()
        assert (await late.submitted(job.job_id)).attempt == 1
        # One that the scheduler lists as waiting is left in peace.
        view = WaitingView(job.job_id, 1, LeaseKind.DRIVER, Shape(1000, 1), 1, 1, "3 of 4 cpu are taken")
        await late.say(ClusterReport(1, time.time(), waiting=(view,), waiting_total=1))
        await _until_it_waits_for(client, job.job_id, "3 of 4 cpu are taken")
    finally:
        await late.stop()


async def test_while_the_database_is_locked_calls_say_unavailable_and_events_wait(
    client: Client, cluster: Cluster, gateway: Service
) -> None:
    await client.upload()
    job = await client.run()
    spec = await cluster.submitted(job.job_id)
    locker = sqlite3.connect(gateway.folder / "gateway.db", timeout=PATIENCE_S, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    await cluster.begin(spec)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.run()
    refusal = from_rpc_error(caught.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")
    assert (await client.get(job.job_id)).status == "QUEUED"
    locker.execute("ROLLBACK")
    locker.close()

    await client.until(job.job_id, "RUNNING")
    assert await client.timeline(job.job_id) == ["QUEUED", "INITIALIZING", "RUNNING"]
    assert not (await client.cluster.ListDeadLetters(cluster_pb2.ListDeadLettersRequest())).dead_letters


async def test_events_told_while_the_gateway_is_down_are_applied_after_its_restart(
    client: Client, cluster: Cluster, gateway: Service
) -> None:
    await client.upload()
    job = await client.run()
    spec = await cluster.submitted(job.job_id)
    await cluster.tell(spec, EventKind.INITIALIZING)
    await client.until(job.job_id, "INITIALIZING")
    gateway.kill()
    running = await cluster.tell(spec, EventKind.RUNNING)
    await cluster.say(running)
    await cluster.tell(spec, EventKind.FINISHED)
    gateway.start()

    await client.until(job.job_id, "DONE")
    assert await client.timeline(job.job_id) == ["QUEUED", "INITIALIZING", "RUNNING", "DONE"]


def _replace_token(gateway: Service) -> None:
    Path(gateway.settings["ADMIN_TOKEN_FILE"]).write_text("another-token")


async def test_a_new_bootstrap_token_takes_the_place_of_the_old_one(client: Client, gateway: Service) -> None:
    await client.cluster.GetInfo(cluster_pb2.GetInfoRequest())
    gateway.stop()
    _replace_token(gateway)
    gateway.start()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.cluster.GetInfo(cluster_pb2.GetInfoRequest(), wait_for_ready=True)
    assert from_rpc_error(caught.value).reason == "TOKEN_INVALID"
    new = Client(gateway.address, "another-token")
    assert (await new.cluster.GetInfo(cluster_pb2.GetInfoRequest())).user == "admin"
    await new.close()


async def test_a_worker_that_was_not_reached_is_told_again_to_stop(client: Client, cluster: Cluster) -> None:
    await client.upload()
    job = await client.run()
    spec = await cluster.submitted(job.job_id)
    await cluster.begin(spec)
    await client.until(job.job_id, "RUNNING")
    await client.jobs.CancelJob(jobs_pb2.CancelJobRequest(job_id=job.job_id))

    stops = [await asyncio.wait_for(cluster.worker.get(), PATIENCE_S) for _ in range(3)]

    assert {stop.job_id for stop in stops} == {job.job_id}


async def test_dead_letters_are_listed_and_replayed(client: Client, cluster: Cluster) -> None:
    await cluster.bus.publish_raw(GATEWAY, b"\xc1", type_name="gateway.job_event/1")
    letter = await _next_letter(client)
    assert (letter.queue, letter.type) == (GATEWAY_INBOX.name, "gateway.job_event/1")
    assert letter.reason
    assert letter.size_bytes == 1

    await client.cluster.ReplayDeadLetter(cluster_pb2.ReplayDeadLetterRequest(dead_letter_id=letter.dead_letter_id))

    # It can't be handled this time either, which makes another one.
    again = await _next_letter(client, after=letter.dead_letter_id)
    assert again.type == letter.type
    listed = (await client.cluster.ListDeadLetters(cluster_pb2.ListDeadLettersRequest())).dead_letters
    assert [each.replayed for each in listed] == [False, True]


async def test_without_a_qpu_broker_the_call_says_so(client: Client) -> None:
    from qonduit_api.v1 import qpu_pb2  # noqa: PLC0415

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.qpu.ListBackends(qpu_pb2.ListBackendsRequest())

    refusal = from_rpc_error(caught.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "QPU_UNAVAILABLE")


async def test_workers_and_queue_are_shown_as_the_scheduler_reports_them(client: Client, cluster: Cluster) -> None:
    worker = WorkerView("w1", "host", Shape(4000, 10), Shape(1000, 5), 2, draining=False, sandbox_tier="A", seen_at=1.0)
    other = WaitingView("somebody-else", 1, LeaseKind.EXECUTOR, Shape(500, 1), 7, 1, "no room")
    await cluster.say(ClusterReport(3, 2.0, (worker,), (other,), 1))
    await cluster.say(ClusterReport(2, 9.0))

    async with asyncio.timeout(PATIENCE_S):
        request = cluster_pb2.ListWorkersRequest()
        while not (workers := (await client.cluster.ListWorkers(request)).workers):  # noqa: ASYNC110 - nobody is told.
            await asyncio.sleep(0.01)
    assert (workers[0].worker_id, workers[0].free.cpu_millis) == ("w1", 1000)
    queue = await client.cluster.GetQueue(cluster_pb2.GetQueueRequest())
    assert queue.total == 1
    assert (queue.entries[0].kind, queue.entries[0].count) == ("executor", 7)
    assert (queue.entries[0].job_id, queue.entries[0].why) == ("somebody-else", "no room"), "for an administrator"


async def _until_waiting(cluster: Cluster, queue: Queue) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await cluster.bus.count(queue):  # noqa: ASYNC110 - a broker tells nobody.
            await asyncio.sleep(0.02)


async def _until_it_waits_for(client: Client, job_id: str, why: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await client.get(job_id)).waiting_for != why:  # noqa: ASYNC110 - it is no change of the job.
            await asyncio.sleep(0.02)


async def _next_letter(client: Client, after: int = 0) -> cluster_pb2.DeadLetter:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer: cluster_pb2.ListDeadLettersResponse = await client.cluster.ListDeadLetters(
                cluster_pb2.ListDeadLettersRequest()
            )
            newer = [letter for letter in answer.dead_letters if letter.dead_letter_id > after]
            if newer:
                return newer[0]
            await asyncio.sleep(0.02)
