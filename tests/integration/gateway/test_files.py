"""Users' files by the API: quotas, uploads that go on, and which files a job finds."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import tarfile
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from qonduit_api.v1 import cluster_pb2, files_pb2, jobs_pb2
from qonduit_service_kit.errors import ApiError, from_rpc_error

if TYPE_CHECKING:
    from integration.gateway.rig import Client, Cluster, Service

_MIB = 1024 * 1024


async def refusal(call: Any) -> ApiError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


def a_tar(content: bytes = b"x") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("member")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def requests(name: str, content: bytes, offset: int = 0) -> list[files_pb2.UploadFileRequest]:
    digest = hashlib.sha256(content).hexdigest()
    header = files_pb2.UploadFileHeader(name=name, size_bytes=len(content), digest=digest, offset=offset)
    chunks = [content[at : at + _MIB] for at in range(offset, len(content), _MIB)]
    return [
        files_pb2.UploadFileRequest(header=header),
        *(files_pb2.UploadFileRequest(chunk=chunk) for chunk in chunks),
    ]


async def put(client: Client, name: str, content: bytes, offset: int = 0) -> None:
    await client.files.UploadFile(iter(requests(name, content, offset)))


async def usage(client: Client) -> tuple[int, int, int]:
    told = await client.files.GetFileUsage(files_pb2.GetFileUsageRequest())
    return told.file_count, told.used_bytes, told.limit_bytes


async def test_a_users_limit_holds_at_once_and_says_the_numbers(admin: Client, client: Client) -> None:
    content = a_tar()
    assert (await usage(client))[2] == 100 * 1024**3

    async def limit(**fields: Any) -> int:
        request = cluster_pb2.SetUserLimitRequest(name=client.name, **fields)
        return int((await admin.cluster.SetUserLimit(request)).user.file_bytes_limit)

    assert await limit(file_bytes=len(content)) == len(content)
    await put(client, "a.tar", content)
    over = await refusal(put(client, "b.tar", content))
    assert (over.code, over.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert over.metadata["needed_bytes"] == over.metadata["limit_bytes"] == str(len(content))
    assert f"{len(content):,}" in over.text
    assert await usage(client) == (1, len(content), len(content))
    await limit(file_bytes=0)
    await put(client, "b.tar", content)
    assert await limit(reset=True) == 100 * 1024**3


async def test_a_job_carries_its_users_limit(admin: Client, client: Client, cluster: Cluster) -> None:
    """What a program leaves in /data is stored with the job's ticket, and that has the limit in it."""
    import jwt  # noqa: PLC0415 - Beside its only use.

    await admin.cluster.SetUserLimit(cluster_pb2.SetUserLimitRequest(name=client.name, file_bytes=12_345))
    await client.upload()
    spec = await cluster.submitted((await client.run()).job_id)
    claims = jwt.decode(spec.storage_ticket, options={"verify_signature": False})
    assert (claims["write_space"], claims["write_limit_bytes"]) == (f"users/{client.name}", 12_345)


async def test_an_upload_goes_on_where_it_broke_off(client: Client, storage: Service) -> None:
    content = a_tar(random.Random(3).randbytes(6 * _MIB))  # noqa: S311 - No secret.
    digest = hashlib.sha256(content).hexdigest()
    asked = files_pb2.StatUploadRequest(name="big.tar", size_bytes=len(content), digest=digest)
    assert (await client.files.StatUpload(asked)).received_bytes == 0
    call = client.files.UploadFile()
    for request in requests("big.tar", content)[:6]:
        await call.write(request)
    async with asyncio.timeout(120):
        while not any(path.stat().st_size >= 2 * _MIB for path in storage.folder.rglob("incoming/*")):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # Another process writes this file; nothing can be awaited.
    call.cancel()
    offset = (await client.files.StatUpload(asked)).received_bytes
    assert 2 * _MIB <= offset < len(content)
    await put(client, "big.tar", content, offset)
    stat = await client.files.StatFile(files_pb2.StatFileRequest(name="big.tar"))
    assert stat.file.digest == digest
    lost = await refusal(put(client, "other.tar", content, _MIB))
    assert (lost.code, lost.reason) == (grpc.StatusCode.UNAVAILABLE, "UPLOAD_LOST")


async def test_a_job_finds_the_files_that_it_named(client: Client, cluster: Cluster) -> None:
    await client.upload()
    await put(client, "a.tar", a_tar())
    await put(client, "b.tar", a_tar())

    async def files_of_a_job(**request: Any) -> tuple[str, ...] | None:
        return (await cluster.submitted((await client.run(**request)).job_id)).files

    assert await files_of_a_job() is None
    assert await files_of_a_job(files=jobs_pb2.FileSelection(names=["b.tar", "b.tar"])) == ("b.tar",)
    assert await files_of_a_job(files=jobs_pb2.FileSelection()) == ()
    missing = await refusal(client.run(files=jobs_pb2.FileSelection(names=["a.tar", "c.tar"])))
    assert (missing.reason, "'c.tar'" in missing.text) == ("FILE_NOT_FOUND", True)
    many = await refusal(client.run(files=jobs_pb2.FileSelection(names=[f"{n}.tar" for n in range(1001)])))
    assert (many.reason, "1,001" in many.text) == ("INVALID_FILES", True)
    key = {"idempotency_key": "once", "files": jobs_pb2.FileSelection(names=["a.tar"])}
    job = await client.run(**key)
    await client.files.DeleteFile(files_pb2.DeleteFileRequest(name="a.tar"))
    assert (await client.run(**key)).job_id == job.job_id  # A repeat of what was accepted.
    other = await refusal(client.run(idempotency_key="once"))
    assert other.reason == "IDEMPOTENCY_KEY_REUSED"
