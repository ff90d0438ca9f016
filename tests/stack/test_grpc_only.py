"""The gRPC interface with nothing but grpcio and the stubs: what a client in any language sees."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import uuid
from typing import TYPE_CHECKING

import grpc
import pytest
from qonduit_api.v1 import (
    cluster_pb2,
    cluster_pb2_grpc,
    files_pb2,
    files_pb2_grpc,
    functions_pb2,
    functions_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    types_pb2,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stack_control import Stack

PROGRAM = b"""\
from qiskit_serverless import Job, get_arguments, save_result, update_status
update_status(Job.MAPPING)
print("hello from the program", flush=True)
save_result({"doubled": 2 * get_arguments()["n"]})
"""


def tar_of(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def channel(stack: Stack) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(stack.profile["address"]) as channel:
        yield channel


@pytest.fixture
def token(stack: Stack) -> tuple[tuple[str, str]]:
    return (("authorization", f"Bearer {stack.profile['token']}"),)


def test_upload_run_watch_logs_result(channel: grpc.Channel, token: tuple[tuple[str, str]]) -> None:
    artifact = tar_of("program.py", PROGRAM)
    header = functions_pb2.UploadFunctionHeader(
        spec=functions_pb2.FunctionSpec(title="plain-grpc", entrypoint="program.py"),
        artifact_digest=hashlib.sha256(artifact).hexdigest(),
        artifact_bytes=len(artifact),
    )
    parts = [
        functions_pb2.UploadFunctionRequest(header=header),
        functions_pb2.UploadFunctionRequest(chunk=artifact),
    ]
    functions = functions_pb2_grpc.FunctionServiceStub(channel)
    uploaded = functions.UploadFunction(iter(parts), metadata=token, timeout=30)
    again = functions.UploadFunction(iter(parts), metadata=token, timeout=30)
    assert (uploaded.created, again.created) == (True, False)
    assert uploaded.function.version == again.function.version

    jobs = jobs_pb2_grpc.JobServiceStub(channel)
    request = jobs_pb2.RunRequest(
        function_title="plain-grpc",
        arguments_json=json.dumps({"n": 21}).encode(),
        idempotency_key=uuid.uuid4().hex,
    )
    first, second = (jobs.Run(request, metadata=token, timeout=30) for _ in range(2))
    assert (first.created, second.created) == (True, False)
    job_id = first.job.job_id
    assert second.job.job_id == job_id

    watched = [r.job for r in jobs.WatchJob(jobs_pb2.WatchJobRequest(job_id=job_id), metadata=token, timeout=300)]
    assert watched[-1].state == types_pb2.JOB_STATE_DONE
    assert [job.revision for job in watched] == sorted({job.revision for job in watched})
    timeline = jobs.GetTimeline(jobs_pb2.GetTimelineRequest(job_id=job_id), metadata=token, timeout=30)
    assert [entry.status for entry in timeline.entries] == [
        "QUEUED",
        "INITIALIZING",
        "RUNNING",
        "RUNNING: MAPPING",
        "DONE",
    ]

    log = jobs.StreamLogs(jobs_pb2.StreamLogsRequest(job_id=job_id, follow=True), metadata=token, timeout=60)
    assert b"".join(piece.chunk for piece in log) == b"hello from the program\n"
    result = jobs.GetResult(jobs_pb2.GetResultRequest(job_id=job_id), metadata=token, timeout=30)
    assert json.loads(b"".join(piece.chunk for piece in result)) == {"doubled": 42}
    tasks = jobs.ListTasks(jobs_pb2.ListTasksRequest(job_id=job_id), metadata=token, timeout=30)
    assert (list(tasks.tasks), list(tasks.counts), tasks.next_page_token, tasks.attempt) == ([], [], "", 1)


def test_workers_are_watched_and_an_unknown_one_is_no_worker(
    channel: grpc.Channel, token: tuple[tuple[str, str]]
) -> None:
    cluster = cluster_pb2_grpc.ClusterServiceStub(channel)
    watching = cluster.WatchWorkers(cluster_pb2.WatchWorkersRequest(), metadata=token, timeout=60)
    (worker,) = next(answer.workers for answer in watching if answer.workers)
    watching.cancel()
    assert worker.state == cluster_pb2.WORKER_STATE_OPEN
    with pytest.raises(grpc.RpcError) as caught:
        cluster.DrainWorker(cluster_pb2.DrainWorkerRequest(worker_id="nobody"), metadata=token, timeout=30)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert worker.worker_id in caught.value.details()


def test_a_file_by_stream(channel: grpc.Channel, token: tuple[tuple[str, str]]) -> None:
    content = tar_of("numbers.bin", bytes(range(256)) * 20_000)
    digest = hashlib.sha256(content).hexdigest()
    files = files_pb2_grpc.FileServiceStub(channel)

    def parts() -> Iterator[files_pb2.UploadFileRequest]:
        yield files_pb2.UploadFileRequest(
            header=files_pb2.UploadFileHeader(name="plain.tar", size_bytes=len(content), digest=digest)
        )
        for start in range(0, len(content), 2**20):
            yield files_pb2.UploadFileRequest(chunk=content[start : start + 2**20])

    stored = files.UploadFile(parts(), metadata=token, timeout=60).file
    assert (stored.name, stored.size_bytes, stored.digest) == ("plain.tar", len(content), digest)
    pieces = list(files.DownloadFile(files_pb2.DownloadFileRequest(name="plain.tar"), metadata=token, timeout=60))
    assert pieces[0].file.digest == digest
    assert b"".join(piece.chunk for piece in pieces[1:]) == content
    files.DeleteFile(files_pb2.DeleteFileRequest(name="plain.tar"), metadata=token, timeout=30)
    with pytest.raises(grpc.RpcError) as caught:
        files.StatFile(files_pb2.StatFileRequest(name="plain.tar"), metadata=token, timeout=30)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_health_and_reflection_answer(channel: grpc.Channel) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415 - Only this test asks.
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # noqa: PLC0415 - Only this test asks.

    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    listed = next(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked, timeout=30))
    names = {service.name for service in listed.list_services_response.service}
    assert {f"qonduit_api.v1.{n}Service" for n in ("Function", "Job", "File", "Qpu", "Cluster")} <= names
