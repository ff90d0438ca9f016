"""A job's life, as its user and the services around the gateway see it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import urllib.request
from typing import TYPE_CHECKING

from integration.gateway.rig import PATIENCE_S
from qonduit_api.internal.v1 import storage_pb2, storage_pb2_grpc
from qonduit_api.v1 import jobs_pb2, types_pb2
from qonduit_service_kit.messages import (
    AttemptLost,
    EventKind,
    JobsSnapshot,
    JobWithdrawn,
    PlacementRefused,
    Reason,
    SchedulerHello,
    Stage,
    StageUsage,
    StopAttempt,
)
from qonduit_service_kit.rpc import channel

if TYPE_CHECKING:
    from integration.gateway.rig import Client, Cluster, Service


async def test_a_job_is_accepted_announced_watched_to_done_and_its_result_read(
    client: Client, cluster: Cluster, storage: Service
) -> None:
    await client.upload()
    job = await client.run(arguments_json=b'{"n": 1}')
    spec = await cluster.submitted(job.job_id)

    assert job.status == "QUEUED"
    assert (spec.attempt, spec.user, spec.entrypoint) == (1, client.name, "program.py")
    watching = asyncio.create_task(_statuses(client, job.job_id))
    await cluster.begin(spec)
    for stage in (Stage.MAPPING, Stage.OPTIMIZING_FOR_HARDWARE):
        await cluster.tell(spec, EventKind.STAGE, stage=stage, usage=(StageUsage(stage, 1.0, 0.5),))
    digest = await _as_the_worker(storage, spec.storage_ticket, b'{"answer": 42}')
    await cluster.tell(
        spec,
        EventKind.FINISHED,
        result_digest=digest,
        result_bytes=14,
        usage=(StageUsage(Stage.MAPPING, 2.0, 1.5, 0.25, 100),),
    )

    stages = ["INITIALIZING", "RUNNING", "RUNNING: MAPPING", "RUNNING: OPTIMIZING_FOR_HARDWARE"]
    assert [status for status in await watching if status != "QUEUED"] == [*stages, "DONE"]
    assert await client.timeline(job.job_id) == ["QUEUED", *stages, "DONE"]
    pieces = [piece.chunk async for piece in client.jobs.GetResult(jobs_pb2.GetResultRequest(job_id=job.job_id))]
    assert json.loads(b"".join(pieces)) == {"answer": 42}
    pieces = [piece.chunk async for piece in client.jobs.GetArguments(jobs_pb2.GetArgumentsRequest(job_id=job.job_id))]
    assert b"".join(pieces) == b'{"n": 1}'
    usage = await client.jobs.GetUsage(jobs_pb2.GetUsageRequest(job_id=job.job_id))
    by_status = {stage.status: stage for stage in usage.stages}
    assert by_status["RUNNING: MAPPING"].cpu_seconds == 1.5
    assert by_status["RUNNING: OPTIMIZING_FOR_HARDWARE"].cpu_seconds == 0.5
    assert by_status["QUEUED"].wall_seconds > 0
    assert (usage.total.cpu_seconds, usage.total.qpu_seconds, usage.total.peak_mem_bytes) == (2.0, 0.0, 100)
    assert (await cluster.told(cluster.scheduler, JobWithdrawn, job.job_id)).attempt == 1


async def test_a_small_result_comes_with_the_end_of_its_job(client: Client, cluster: Cluster) -> None:
    await client.upload()
    job = await client.run()
    spec = await cluster.submitted(job.job_id)
    await cluster.begin(spec)
    # Storage is not asked, and could not say: it has no such blob.
    await cluster.tell(spec, EventKind.FINISHED, result_digest="d" * 64, result_bytes=2, result=b"42")
    assert (await _statuses(client, job.job_id))[-1] == "DONE"
    pieces = [piece.chunk async for piece in client.jobs.GetResult(jobs_pb2.GetResultRequest(job_id=job.job_id))]
    assert pieces == [b"42"]


async def test_metrics_count_a_job_and_its_stages_once(client: Client, cluster: Cluster, gateway: Service) -> None:
    await client.upload()
    before = await asyncio.to_thread(_metrics, gateway)
    job = await client.run()
    spec = await cluster.submitted(job.job_id)
    await cluster.begin(spec)
    usage = (StageUsage(Stage.MAPPING, 3.0, 2.5, 0.5, 1), StageUsage(Stage.NONE, 1.0, 0.25))
    end = await cluster.tell(spec, EventKind.FINISHED, usage=usage)
    await cluster.say(end)
    await client.until(job.job_id, "DONE")
    finished = 'qonduit_jobs_finished_total{reason="NONE",state="DONE"}'
    after = before
    # A reader of the database may see the end a moment before it is counted, and a counter tells nobody.
    async with asyncio.timeout(PATIENCE_S):
        while after.get(finished) == before.get(finished):
            await asyncio.sleep(0.01)
            after = await asyncio.to_thread(_metrics, gateway)

    grown = {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}
    assert grown['qonduit_job_stage_cpu_seconds_total{stage="MAPPING"}'] == 2.5
    assert grown['qonduit_job_stage_cpu_seconds_total{stage="NONE"}'] == 0.25
    assert grown['qonduit_job_stage_wall_seconds_total{stage="MAPPING"}'] == 3.0
    assert not any(name.startswith("qonduit_job_stage_qpu_seconds_total{") for name in grown)
    assert grown["qonduit_jobs_submitted_total"] == 1
    assert grown[finished] == 1
    assert grown['qonduit_jobs{state="DONE"}'] == 1
    assert grown["qonduit_job_queue_wait_seconds_count"] == 1
    assert grown["qonduit_job_start_latency_seconds_count"] == 1


async def test_followers_of_the_log_are_told_when_the_job_is_over(
    client: Client, cluster: Cluster, storage: Service
) -> None:
    await client.upload()
    job = await client.run()
    spec = await cluster.submitted(job.job_id)
    await cluster.begin(spec)
    following = asyncio.create_task(_log(client, job.job_id))
    async with channel(storage.address, token=spec.storage_ticket) as opened:
        logs = storage_pb2_grpc.LogServiceStub(opened)
        piece = storage_pb2.AppendLogRequest(log=job.job_id, attempt=1, writer_offset=0, chunk=b"first line\n")
        await logs.AppendLog(iter([piece])).read()
    await cluster.tell(spec, EventKind.FINISHED)

    assert await asyncio.wait_for(following, PATIENCE_S) == b"first line\n"


async def test_a_hundred_identical_runs_at_once_make_one_job(client: Client) -> None:
    await client.upload()
    request = jobs_pb2.RunRequest(function_title="hello", arguments_json=b'{"x": 1}', idempotency_key="k")

    answers = await asyncio.gather(*(client.jobs.Run(request) for _ in range(100)))

    assert len({answer.job.job_id for answer in answers}) == 1
    assert sum(answer.created for answer in answers) == 1
    assert len((await client.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs) == 1


async def test_a_scheduler_gets_a_higher_term_each_time_and_all_jobs_that_are_not_over(
    client: Client, cluster: Cluster
) -> None:
    await client.upload(env_vars={"PADDING": "x" * 15_000})
    jobs = [await client.run() for _ in range(10)]
    spec = await cluster.submitted(jobs[0].job_id)
    await cluster.begin(spec)
    await client.until(jobs[0].job_id, "RUNNING")
    snapshots = []
    for _ in range(2):
        await cluster.say(SchedulerHello("s1"))
        pages: list[JobsSnapshot] = []
        while not pages or not pages[-1].last:
            pages.append(await cluster.told(cluster.scheduler, JobsSnapshot))
        snapshots.append(pages)

    first, second = snapshots
    assert second[0].term > first[0].term
    assert len(second) > 1
    assert [page.page for page in second] == list(range(len(second)))
    queued = {spec.job_id for page in second for spec in page.queued}
    running = {(attempt.spec.job_id, attempt.worker_id) for page in second for attempt in page.running}
    assert queued >= {job.job_id for job in jobs[1:]}
    assert (jobs[0].job_id, "w1") in running


async def test_a_lost_attempt_is_requeued_with_the_next_number_and_the_old_one_is_fenced_off(
    client: Client, cluster: Cluster
) -> None:
    await client.upload()
    job = await client.run()
    first = await cluster.submitted(job.job_id)
    await cluster.begin(first)
    await client.until(job.job_id, "RUNNING")
    await cluster.say(AttemptLost(job.job_id, 1, "w1", "no heartbeat for 15 s"))
    second = await cluster.submitted(job.job_id, attempt=2)
    assert second.attempt == 2
    stop = await cluster.told(cluster.worker, StopAttempt, job.job_id)
    assert (stop.attempt, stop.cause) == (1, Reason.WORKER_LOST)

    # The first attempt's worker was only out of reach; what it says now must change nothing.
    await cluster.say(cluster.event(first, EventKind.STAGE, stage=Stage.MAPPING))
    await cluster.tell(first, EventKind.FINISHED)
    assert (await cluster.told(cluster.worker, StopAttempt, job.job_id)).attempt == 1
    await cluster.begin(second)
    await cluster.tell(second, EventKind.FINISHED)

    done = await client.until(job.job_id, "DONE")
    assert done.attempt == 2
    answer = await client.jobs.GetTimeline(jobs_pb2.GetTimelineRequest(job_id=job.job_id))
    assert [entry.status for entry in answer.entries] == [
        *("QUEUED", "INITIALIZING", "RUNNING"),
        *("QUEUED", "INITIALIZING", "RUNNING", "DONE"),
    ]
    assert "no heartbeat for 15 s" in answer.entries[3].text


async def test_a_job_that_fits_nowhere_ends_with_the_numbers(client: Client, cluster: Cluster) -> None:
    await client.upload()
    job = await client.run(resources=types_pb2.Resources(cpu_millis=10**6))
    await cluster.submitted(job.job_id)
    await cluster.say(PlacementRefused(job.job_id, 1, "needs 1000 cpu, the largest worker has 16"))

    ended = await client.until(job.job_id, "ERROR")

    assert ended.reason == types_pb2.REASON_UNSCHEDULABLE
    assert "the largest worker has 16" in ended.error_text


async def test_cancel_in_each_state_and_again(client: Client, cluster: Cluster) -> None:
    await client.upload()
    queued = await client.run()
    answer = await _cancel(client, queued.job_id)
    assert (answer.job.status, answer.message) == ("CANCELED", "The job was canceled before it started.")
    assert (await cluster.told(cluster.scheduler, JobWithdrawn, queued.job_id)).attempt == 1
    assert "over already" in (await _cancel(client, queued.job_id)).message

    running = await client.run()
    spec = await cluster.submitted(running.job_id)
    await cluster.begin(spec)
    await client.until(running.job_id, "RUNNING")
    assert (await _cancel(client, running.job_id)).job.status == "CANCELING"
    stop = await cluster.told(cluster.worker, StopAttempt, running.job_id)
    assert (stop.attempt, stop.cause) == (1, Reason.CANCELED)
    assert "already" in (await _cancel(client, running.job_id)).message
    await cluster.tell(spec, EventKind.FINISHED, reason=Reason.CANCELED)
    ended = await client.until(running.job_id, "CANCELED")
    assert ended.reason == types_pb2.REASON_CANCELED

    fast = await client.run()
    spec = await cluster.submitted(fast.job_id)
    await cluster.begin(spec)
    await client.until(fast.job_id, "RUNNING")
    assert "it will be DONE" in (await _cancel(client, fast.job_id)).message.replace("the job", "it")
    await cluster.tell(spec, EventKind.FINISHED)
    await client.until(fast.job_id, "DONE")
    assert "over already: DONE" in (await _cancel(client, fast.job_id)).message


async def _cancel(client: Client, job_id: str) -> jobs_pb2.CancelJobResponse:
    answer: jobs_pb2.CancelJobResponse = await client.jobs.CancelJob(jobs_pb2.CancelJobRequest(job_id=job_id))
    return answer


async def _statuses(client: Client, job_id: str) -> list[str]:
    async with asyncio.timeout(PATIENCE_S):
        return [answer.job.status async for answer in client.jobs.WatchJob(jobs_pb2.WatchJobRequest(job_id=job_id))]


def _metrics(gateway: Service) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{gateway.metrics_port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if line.startswith("qonduit_job")]
    return {name: float(value) for name, value in pairs}


async def _log(client: Client, job_id: str) -> bytes:
    request = jobs_pb2.StreamLogsRequest(job_id=job_id, follow=True)
    return b"".join([piece.chunk async for piece in client.jobs.StreamLogs(request)])


async def _as_the_worker(storage: Service, ticket: str, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    header = storage_pb2.PutBlobHeader(digest=digest, size_bytes=len(content))
    async with channel(storage.address, token=ticket) as opened:
        blobs = storage_pb2_grpc.BlobServiceStub(opened)
        await blobs.PutBlob(
            iter([storage_pb2.PutBlobRequest(header=header), storage_pb2.PutBlobRequest(chunk=content)])
        )
    return digest
