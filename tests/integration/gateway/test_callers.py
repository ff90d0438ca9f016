"""Who may do what, and what is wrong with bad requests."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from integration.gateway.rig import Client, tar, upload_messages
from qonduit_api.v1 import cluster_pb2, files_pb2, functions_pb2, jobs_pb2, qpu_pb2, types_pb2
from qonduit_service_kit.errors import ApiError, from_rpc_error
from qonduit_service_kit.rpc import channel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from integration.gateway.rig import Service

_FILES = (functions_pb2, jobs_pb2, files_pb2, qpu_pb2, cluster_pb2)
_MIB = 1024 * 1024


@pytest.mark.parametrize(("token", "reason"), [("", "TOKEN_MISSING"), ("wrong", "TOKEN_INVALID")])
async def test_no_method_of_any_service_answers_without_a_good_token(gateway: Service, token: str, reason: str) -> None:
    async with channel(gateway.address, token=token) as opened:
        for method, streams in _methods():
            call: Any = opened.unary_stream(method) if streams else opened.unary_unary(method)
            refusal = await _refusal(_drain(call(b"")))
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason), method
            assert "qonduit up" in refusal.text
            assert "QONDUIT_TOKEN" in refusal.text
        health: Any = health_pb2_grpc.HealthStub(opened)
        answer = await health.Check(health_pb2.HealthCheckRequest(service="qonduit_api.v1.JobService"))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_second_user_sees_nothing_of_the_first(client: Client, other: Client) -> None:
    await client.upload()
    job_id = (await client.run()).job_id
    archive = tar({"a": b"1"})
    await _put_file(client, "mine.tar", archive)

    jobs = other.jobs
    calls = (
        jobs.GetJob(jobs_pb2.GetJobRequest(job_id=job_id)),
        jobs.GetTimeline(jobs_pb2.GetTimelineRequest(job_id=job_id)),
        jobs.GetUsage(jobs_pb2.GetUsageRequest(job_id=job_id)),
        jobs.ListTasks(jobs_pb2.ListTasksRequest(job_id=job_id)),
        jobs.CancelJob(jobs_pb2.CancelJobRequest(job_id=job_id)),
        jobs.WatchJob(jobs_pb2.WatchJobRequest(job_id=job_id)),
        jobs.StreamLogs(jobs_pb2.StreamLogsRequest(job_id=job_id, follow=True)),
        jobs.GetResult(jobs_pb2.GetResultRequest(job_id=job_id)),
        jobs.GetArguments(jobs_pb2.GetArgumentsRequest(job_id=job_id)),
        other.qpu.ListQpuJobs(qpu_pb2.ListQpuJobsRequest(job_id=job_id)),
        other.functions.GetFunction(functions_pb2.GetFunctionRequest(title="hello")),
        jobs.Run(jobs_pb2.RunRequest(function_title="hello")),
        other.files.StatFile(files_pb2.StatFileRequest(name="mine.tar")),
        other.files.DownloadFile(files_pb2.DownloadFileRequest(name="mine.tar")),
        other.files.DeleteFile(files_pb2.DeleteFileRequest(name="mine.tar")),
    )
    missing = [(await _refusal(_drain(call))).reason for call in calls]

    assert missing == ["JOB_NOT_FOUND"] * 10 + ["FUNCTION_NOT_FOUND"] * 2 + ["FILE_NOT_FOUND"] * 3
    assert not (await jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs
    assert not (await other.functions.ListFunctions(functions_pb2.ListFunctionsRequest())).functions
    assert not (await other.files.ListFiles(files_pb2.ListFilesRequest())).files
    assert (await client.get(job_id)).status == "QUEUED"


async def test_only_administrators_administer(admin: Client, other: Client) -> None:
    for call in (
        other.cluster.ListUsers(cluster_pb2.ListUsersRequest()),
        other.cluster.CreateUser(cluster_pb2.CreateUserRequest(name="eve")),
        other.cluster.ListDeadLetters(cluster_pb2.ListDeadLettersRequest()),
        other.cluster.ReplayDeadLetter(cluster_pb2.ReplayDeadLetterRequest(dead_letter_id=1)),
    ):
        assert (await _refusal(call)).reason == "NOT_ADMINISTRATOR"
    users = (await admin.cluster.ListUsers(cluster_pb2.ListUsersRequest())).users
    assert {("admin", True), (other.name, False)} <= {(user.name, user.administrator) for user in users}
    info = await other.cluster.GetInfo(cluster_pb2.GetInfoRequest())
    assert (info.user, info.administrator, info.artifact_limit_bytes) == (other.name, False, 2 * _MIB)
    for name, reason in ((other.name, "USER_EXISTS"), ("..", "INVALID_USER_NAME"), ("a/b", "INVALID_USER_NAME")):
        refusal = await _refusal(admin.cluster.CreateUser(cluster_pb2.CreateUserRequest(name=name)))
        assert refusal.reason == reason


async def test_the_same_upload_is_the_same_version_and_a_job_stays_with_its_own(client: Client) -> None:
    first = await client.upload()
    again = await client.upload()
    job = await client.run()
    second = await client.upload(description="newer")

    assert (first.created, again.created, second.created) == (True, False, True)
    assert first.function.version == again.function.version != second.function.version
    assert job.function_version == first.function.version
    assert (await client.run()).function_version == second.function.version
    older = await client.run(function_version=first.function.version[:8])
    assert older.function_version == first.function.version
    request = functions_pb2.ListFunctionVersionsRequest(title="hello", page_size=1)
    page = await client.functions.ListFunctionVersions(request)
    assert page.functions[0].version == second.function.version
    request.page_token = page.next_page_token
    assert (await client.functions.ListFunctionVersions(request)).functions[0].version == first.function.version


async def test_bad_functions_are_refused_with_what_to_do(client: Client) -> None:
    good = tar({"program.py": b"1", "other.py": b"2", "sub/deep.py": b"3"})
    missing = await _upload_refusal(client, good, entrypoint="main.py")
    assert missing.reason == "ENTRYPOINT_NOT_FOUND"
    assert "other.py, program.py, sub/deep.py" in missing.text
    for spec, field in (
        ({"entrypoint": ""}, "spec.entrypoint"),
        ({"entrypoint": "../program.py"}, "spec.entrypoint"),
        ({"entrypoint": "/etc/program.py"}, "spec.entrypoint"),
        ({"entrypoint": "program.txt"}, "spec.entrypoint"),
        ({"title": "a b"}, "spec.title"),
        ({"title": ""}, "spec.title"),
        ({"dependencies": ["not a requirement!"]}, "spec.dependencies"),
        ({"env_vars": {"1X": "y"}}, "spec.env_vars"),
        ({"env_vars": {"X": "y" * 17_000}}, "spec.env_vars"),
        ({"version_label": "one"}, "spec.version_label"),
    ):
        refusal = await _upload_refusal(client, good, **spec)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FUNCTION")
        assert field in refusal.violations
    for content in (b"no tar at all", b"", b"\x1f\x8b" + bytes(600), tar({"../up.py": b""})):
        assert (await _upload_refusal(client, content)).reason == "INVALID_FUNCTION"
    large = tar({"program.py": b"", "data/huge.bin": bytes(3 * _MIB), "small.bin": bytes(1000)})
    refusal = await _upload_refusal(client, large)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "ARTIFACT_TOO_LARGE")
    assert "data/huge.bin (3.0 MiB)" in refusal.text
    messages = list(upload_messages(good, title="hello", entrypoint="program.py"))
    messages[0].header.artifact_digest = hashlib.sha256(b"other").hexdigest()
    assert (await _refusal(client.functions.UploadFunction(iter(messages)))).reason == "DIGEST_MISMATCH"
    assert not (await client.functions.ListFunctions(functions_pb2.ListFunctionsRequest())).functions


async def test_bad_runs_are_refused_with_what_to_do(client: Client) -> None:
    await client.upload()
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"function_title": "helo"}, "FUNCTION_NOT_FOUND"),
        ({"arguments_json": b"[1]"}, "INVALID_ARGUMENTS"),
        ({"arguments_json": b"{"}, "INVALID_ARGUMENTS"),
        ({"arguments_json": b'{"x": "' + b"y" * _MIB + b'"}'}, "INVALID_ARGUMENTS"),
        ({"arguments_digest": "0" * 64}, "ARGUMENTS_NOT_FOUND"),
        ({"resources": {"cpu_millis": -1}}, "INVALID_RESOURCES"),
        ({"resources": {"gpus": -1}}, "INVALID_RESOURCES"),
        ({"time_limit_seconds": -1}, "INVALID_TIME_LIMIT"),
        ({"time_limit_seconds": float("nan")}, "INVALID_TIME_LIMIT"),
        ({"qpu_budget_seconds": -1}, "INVALID_QPU_BUDGET"),
        ({"idempotency_key": "k" * 200}, "INVALID_IDEMPOTENCY_KEY"),
        ({"function_version": "abc"}, "INVALID_VERSION"),
    )
    for request, reason in cases:
        run = client.jobs.Run(jobs_pb2.RunRequest(**{"function_title": "hello", **request}))
        assert (await _refusal(run)).reason == reason
    refusal = await _refusal(client.jobs.Run(jobs_pb2.RunRequest(function_title="helo")))
    assert "Did you mean 'hello'?" in refusal.text
    await client.run(idempotency_key="k")
    refusal = await _refusal(
        client.jobs.Run(jobs_pb2.RunRequest(function_title="hello", idempotency_key="k", priority=1))
    )
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED")
    assert (await _refusal(client.jobs.ListJobs(jobs_pb2.ListJobsRequest(page_token="x")))).reason == (
        "INVALID_PAGE_TOKEN"
    )


async def test_large_arguments_go_by_upload(client: Client) -> None:
    await client.upload()
    text = b'{"x": "' + b"y" * (2 * _MIB) + b'"}'
    digest = hashlib.sha256(text).hexdigest()
    header = jobs_pb2.UploadArgumentsHeader(digest=digest, size_bytes=len(text))
    messages = [jobs_pb2.UploadArgumentsRequest(header=header)]
    messages += [jobs_pb2.UploadArgumentsRequest(chunk=text[at : at + _MIB]) for at in range(0, len(text), _MIB)]
    await client.jobs.UploadArguments(iter(messages))

    job = await client.run(arguments_digest=digest)

    request = jobs_pb2.GetArgumentsRequest(job_id=job.job_id)
    assert b"".join([piece.chunk async for piece in client.jobs.GetArguments(request)]) == text


async def test_jobs_are_listed_newest_first_in_pages_and_by_filter(client: Client) -> None:
    await client.upload()
    await client.upload(title="other")
    jobs = [(await client.run()).job_id for _ in range(5)]
    extra = (await client.run("other")).job_id
    await client.jobs.CancelJob(jobs_pb2.CancelJobRequest(job_id=jobs[0]))
    seen, request = [], jobs_pb2.ListJobsRequest(page_size=2, function_title="hello")
    while True:
        page = await client.jobs.ListJobs(request)
        seen += [job.job_id for job in page.jobs]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break

    assert seen == jobs[::-1]
    canceled = await client.jobs.ListJobs(jobs_pb2.ListJobsRequest(states=[types_pb2.JOB_STATE_CANCELED]))
    assert [job.job_id for job in canceled.jobs] == [jobs[0]]
    assert (await client.jobs.ListJobs(jobs_pb2.ListJobsRequest(page_size=1))).jobs[0].job_id == extra


async def test_jobs_can_be_left_out_and_counted(client: Client) -> None:
    await client.upload()
    await client.upload(title="other")
    jobs = [(await client.run()).job_id for _ in range(4)][::-1]
    await client.run("other")
    request = jobs_pb2.ListJobsRequest(page_size=2, function_title="hello", skip=1, count=True)
    page = await client.jobs.ListJobs(request)
    assert ([job.job_id for job in page.jobs], page.total) == (jobs[1:3], 4)
    request = jobs_pb2.ListJobsRequest(function_title="hello", page_token=page.next_page_token, skip=1)
    after = await client.jobs.ListJobs(request)
    assert (list(after.jobs), after.total) == ([], 0)
    assert (await client.jobs.ListJobs(jobs_pb2.ListJobsRequest(page_size=1, count=True))).total == 5
    assert (await _refusal(client.jobs.ListJobs(jobs_pb2.ListJobsRequest(skip=-1)))).reason == "INVALID_SKIP"


async def test_files_go_in_and_out_and_storages_refusals_come_through(client: Client) -> None:
    content = tar({"a.txt": bytes(3 * _MIB)})
    stored = await _put_file(client, "data.tar", content)
    assert (stored.file.name, stored.file.size_bytes) == ("data.tar", len(content))
    request = files_pb2.DownloadFileRequest(name="data.tar")
    parts = [part async for part in client.files.DownloadFile(request)]
    assert parts[0].file.digest == hashlib.sha256(content).hexdigest()
    assert b"".join(part.chunk for part in parts[1:]) == content
    for name, body, reason in (
        ("a/b.tar", content, "INVALID_FILE_NAME"),
        ("data.zip", content, "INVALID_FILE_NAME"),
        ("text.tar", b"only text" * 100, "INVALID_FILE_CONTENT"),
    ):
        assert (await _refusal(_put_file(client, name, body))).reason == reason
    assert [file.name for file in (await client.files.ListFiles(files_pb2.ListFilesRequest())).files] == ["data.tar"]
    await client.files.DeleteFile(files_pb2.DeleteFileRequest(name="data.tar"))
    assert (await _refusal(client.files.StatFile(files_pb2.StatFileRequest(name="data.tar")))).reason == (
        "FILE_NOT_FOUND"
    )


async def test_a_client_that_goes_away_in_the_middle_leaves_nothing(client: Client) -> None:
    content = tar({"program.py": bytes(_MIB)})
    gone = asyncio.Event()

    async def half() -> AsyncIterator[functions_pb2.UploadFunctionRequest]:
        messages = list(upload_messages(content, title="half", entrypoint="program.py"))
        for message in messages[:2]:
            yield message
        gone.set()
        await asyncio.Event().wait()

    call = client.functions.UploadFunction(half())
    task = asyncio.ensure_future(_drain(call))
    await gone.wait()
    task.cancel()
    await asyncio.wait([task])

    assert (await _refusal(client.jobs.Run(jobs_pb2.RunRequest(function_title="half")))).reason == "FUNCTION_NOT_FOUND"
    assert (await client.upload("half")).created


def _methods() -> list[tuple[str, bool]]:
    found = []
    for file in _FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            assert isinstance(service, ServiceDescriptor) or service.methods
            found += [(f"/{service.full_name}/{method.name}", method.server_streaming) for method in service.methods]
    return found


async def _drain(call: Any) -> Any:
    if hasattr(call, "__aiter__"):
        return [answer async for answer in call]
    return await call


async def _refusal(call: Any) -> ApiError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def _upload_refusal(client: Client, artifact: bytes, **spec: Any) -> ApiError:
    messages = upload_messages(artifact, **{"title": "hello", "entrypoint": "program.py", **spec})
    return await _refusal(client.functions.UploadFunction(iter(list(messages))))


async def _put_file(client: Client, name: str, content: bytes) -> files_pb2.UploadFileResponse:
    header = files_pb2.UploadFileHeader(name=name, size_bytes=len(content), digest=hashlib.sha256(content).hexdigest())
    messages = [files_pb2.UploadFileRequest(header=header)]
    messages += [files_pb2.UploadFileRequest(chunk=content[at : at + _MIB]) for at in range(0, len(content), _MIB)]
    answer: files_pb2.UploadFileResponse = await client.files.UploadFile(iter(messages))
    return answer
