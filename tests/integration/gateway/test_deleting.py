"""Deleting jobs: what goes, what stays, and when bytes that others share go."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from qonduit_api.internal.v1 import storage_pb2, storage_pb2_grpc
from qonduit_api.v1 import jobs_pb2
from qonduit_service_kit.errors import ApiError, from_rpc_error
from qonduit_service_kit.messages import EventKind
from qonduit_service_kit.rpc import channel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from integration.gateway.rig import Client, Cluster, Service
    from qonduit_service_kit.messages import JobSpec

SOON = {"BLOB_GRACE_S": "2", "COLLECT_INTERVAL_S": "0.1", "SWEEP_INTERVAL_S": "0.1"}
PATIENCE_S = 120


@pytest.fixture(scope="module")
def gateway(
    new_gateway: Callable[..., Service], module_bus_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """One that deletes soon."""
    service = new_gateway(tmp_path_factory.mktemp("gateway"), module_bus_url, **SOON)
    yield service
    service.stop()


async def refusal(call: Any) -> ApiError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def delete(client: Client, job_id: str) -> None:
    await client.jobs.DeleteJob(jobs_pb2.DeleteJobRequest(job_id=job_id))


def files(storage: Service, kind: str, digest: str = "*") -> list[str]:
    return [path.name for path in storage.folder.rglob(f"{kind}/*/{digest}")]


async def until(look: Callable[[], bool]) -> None:
    """Files of another process go; nothing can be awaited."""
    async with asyncio.timeout(PATIENCE_S):
        while not look():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def finish(storage: Service, cluster: Cluster, spec: JobSpec, result: bytes) -> str:
    """Do as a worker does: write a log, store a result, say that it is over."""
    digest = hashlib.sha256(result).hexdigest()
    ticket = (("authorization", f"Bearer {spec.storage_ticket}"),)
    await cluster.begin(spec)
    async with channel(storage.address) as opened:
        header = storage_pb2.PutBlobHeader(digest=digest, size_bytes=len(result))
        blob = [storage_pb2.PutBlobRequest(header=header), storage_pb2.PutBlobRequest(chunk=result)]
        await storage_pb2_grpc.BlobServiceStub(opened).PutBlob(iter(blob), metadata=ticket)
        piece = storage_pb2.AppendLogRequest(log=spec.job_id, attempt=1, chunk=b"hello\n")
        logs = storage_pb2_grpc.LogServiceStub(opened).AppendLog(iter([piece]), metadata=ticket)
        assert [answer async for answer in logs]
    await cluster.tell(spec, EventKind.FINISHED, result_digest=digest, result_bytes=len(result))
    return digest


async def test_a_deleted_job_leaves_no_bytes_behind(client: Client, cluster: Cluster, storage: Service) -> None:
    await client.upload()
    arguments = json.dumps({"only": client.name}).encode()
    job_id = (await client.run(arguments_json=arguments, idempotency_key="key")).job_id
    running = await refusal(delete(client, job_id))
    assert (running.code, running.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JOB_NOT_OVER")
    assert "QUEUED" in running.text
    assert "Cancel it" in running.text
    spec = await cluster.submitted(job_id)
    result = await finish(storage, cluster, spec, f'"result of {client.name}"'.encode())
    await client.until(job_id, "DONE")
    log = hashlib.sha256(job_id.encode()).hexdigest()
    mine = hashlib.sha256(arguments).hexdigest()
    await until(lambda: bool(files(storage, "logs", log)))
    assert files(storage, "blobs", mine)
    assert files(storage, "blobs", result)

    await delete(client, job_id)
    for call in (
        client.get(job_id),
        delete(client, job_id),
        client.timeline(job_id),
        client.jobs.CancelJob(jobs_pb2.CancelJobRequest(job_id=job_id)),
    ):
        assert (await refusal(call)).reason == "JOB_NOT_FOUND"
    assert not (await client.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs
    await until(lambda: not files(storage, "blobs", mine) and not files(storage, "blobs", result))
    await until(lambda: not files(storage, "logs", log))
    # The key is free again: it makes a job, and does not bring the old one back.
    again = await client.run(arguments_json=arguments, idempotency_key="key")
    assert again.job_id != job_id
    assert (await cluster.submitted(again.job_id)).arguments_digest == mine
    assert files(storage, "blobs", mine)
    await client.jobs.CancelJob(jobs_pb2.CancelJobRequest(job_id=again.job_id))


async def test_bytes_that_another_job_has_stay_until_that_goes_too(
    client: Client, cluster: Cluster, storage: Service
) -> None:
    await client.upload()
    arguments = json.dumps({"shared": client.name}).encode()
    shared = hashlib.sha256(arguments).hexdigest()
    jobs = []
    for _ in range(2):
        job_id = (await client.run(arguments_json=arguments)).job_id
        await finish(storage, cluster, await cluster.submitted(job_id), b"1")
        await client.until(job_id, "DONE")
        jobs.append(job_id)
    await delete(client, jobs[0])
    marker = (await client.run(arguments_json=json.dumps({"marker": client.name}).encode())).job_id
    await finish(storage, cluster, await cluster.submitted(marker), b"2")
    await client.until(marker, "DONE")
    await delete(client, marker)
    gone = hashlib.sha256(json.dumps({"marker": client.name}).encode()).hexdigest()
    await until(lambda: not files(storage, "blobs", gone))  # The collector came by after the first was deleted.
    pieces = client.jobs.GetArguments(jobs_pb2.GetArgumentsRequest(job_id=jobs[1]))
    assert b"".join([piece.chunk async for piece in pieces]) == arguments
    await delete(client, jobs[1])
    await until(lambda: not files(storage, "blobs", shared))


async def test_bytes_stay_while_a_job_runs_that_may_have_stored_them_too(
    client: Client, cluster: Cluster, storage: Service
) -> None:
    """A worker stores a result first, and the word of it may come hours later: the broker was away."""
    await client.upload()
    running = (await client.run()).job_id
    spec = await cluster.submitted(running)
    await cluster.begin(spec)
    await client.until(running, "RUNNING")
    over = (await client.run()).job_id
    same = f'"the same of {client.name}"'.encode()
    digest = await finish(storage, cluster, await cluster.submitted(over), same)
    await client.until(over, "DONE")
    await delete(client, over)
    marker = (await client.run()).job_id
    mark = await finish(storage, cluster, await cluster.submitted(marker), f'"a mark of {client.name}"'.encode())
    await client.until(marker, "DONE")
    await delete(client, marker)
    an_hour_ago = time.time() - 3600
    os.utime(next(storage.folder.rglob(f"blobs/*/{mark}")), (an_hour_ago, an_hour_ago))
    await until(lambda: not files(storage, "blobs", mark))  # It is older than the running job; the other is not.
    assert files(storage, "blobs", digest)
    await cluster.tell(spec, EventKind.FINISHED, result_digest=digest, result_bytes=len(same))
    await client.until(running, "DONE")
    pieces = client.jobs.GetResult(jobs_pb2.GetResultRequest(job_id=running))
    assert b"".join([piece.chunk async for piece in pieces]) == same


async def test_others_cannot_delete_a_job(client: Client, other: Client, cluster: Cluster, storage: Service) -> None:
    await client.upload()
    job_id = (await client.run()).job_id
    await finish(storage, cluster, await cluster.submitted(job_id), b"1")
    await client.until(job_id, "DONE")
    assert (await refusal(delete(other, job_id))).reason == "JOB_NOT_FOUND"
    assert (await client.get(job_id)).status == "DONE"


async def test_jobs_go_by_themselves_when_their_time_is_over(
    new_gateway: Callable[..., Service], broker: Any, tmp_path: Any, storage: Service
) -> None:
    from integration.gateway.rig import ADMIN_TOKEN, Client, Cluster  # noqa: PLC0415 - Beside its only use.

    url = broker.vhost_url("retention")
    service = new_gateway(tmp_path / "gateway", url, JOB_RETENTION_S="0.5", **SOON)
    client, cluster = Client(service.address, ADMIN_TOKEN), Cluster(url)
    await cluster.start()
    try:
        await client.upload()
        over, running = [(await client.run()).job_id for _ in range(2)]
        await finish(storage, cluster, await cluster.submitted(over), b"1")
        async with asyncio.timeout(PATIENCE_S):
            while {job.job_id for job in (await client.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs} != {running}:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    finally:
        await client.close()
        await cluster.stop()
        service.stop()
        broker.node.remove_vhost("retention")


async def test_blobs_that_no_job_ever_had_go_when_they_are_old(
    new_gateway: Callable[..., Service], broker: Any, tmp_path: Any, storage: Service
) -> None:
    from integration.gateway.rig import ADMIN_TOKEN, Client  # noqa: PLC0415 - Beside its only use.

    url = broker.vhost_url("unused")
    service = new_gateway(tmp_path / "gateway", url, BLOB_UNUSED_S="3600", **SOON)
    client = Client(service.address, ADMIN_TOKEN)
    try:
        digests = []
        for text in (b'{"old": 1}', b'{"new": 1}'):
            digests.append(hashlib.sha256(text).hexdigest())
            header = jobs_pb2.UploadArgumentsHeader(digest=digests[-1], size_bytes=len(text))
            parts = [jobs_pb2.UploadArgumentsRequest(header=header), jobs_pb2.UploadArgumentsRequest(chunk=text)]
            await client.jobs.UploadArguments(iter(parts))
        (path,) = storage.folder.rglob(f"blobs/*/{digests[0]}")
        os.utime(path, (0, 0))
        service.stop()
        service.start()  # It looks at all blobs once it starts.
        await until(lambda: not files(storage, "blobs", digests[0]))
        assert files(storage, "blobs", digests[1])
    finally:
        await client.close()
        service.stop()
        broker.node.remove_vhost("unused")
