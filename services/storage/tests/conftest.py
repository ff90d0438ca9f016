"""A storage service to try: in this process, or in one of its own that can be killed."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from prometheus_client import CollectorRegistry
from qonduit_api.internal.v1 import storage_pb2 as pb
from qonduit_api.internal.v1 import storage_pb2_grpc as pb_grpc
from qonduit_service_kit import interceptors
from qonduit_service_kit.rpc import GrpcServer, channel, from_rpc_error
from qonduit_service_kit.tickets import Ticket, TicketSigner, load_or_create_key
from qonduit_storage.service import build
from qonduit_storage.settings import StorageSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

CHUNK_BYTES = 64 * 1024
ALL_RIGHTS = {"blobs": "rw", "read_space": "users/ada", "write_space": "users/ada", "log": "job-1"}
SERVICE = """
import runpy
from qonduit_service_kit import interceptors
from qonduit_storage import disk
interceptors._HEAR_OUT_S = interceptors._PAUSE_S = 100.0
disk._FREE_SPACE_AGE_S = 1e9
runpy.run_module("qonduit_storage", run_name="__main__")
"""
"""As `python -m qonduit_storage`, but as `slow_senders` has it, and how full its disk is it looks at once only.

So a disk that fills up is always met by a write, however long ago the last look was, and none sees it full for longer.
"""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tar_of(*contents: bytes, mode: str = "w") -> bytes:
    """An archive with one member per content."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode=mode) as tar:  # type: ignore[call-overload]
        for number, content in enumerate(contents):
            member = tarfile.TarInfo(f"member-{number}.txt")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def chunks(data: bytes) -> Iterator[bytes]:
    view = memoryview(data)
    return (bytes(view[at : at + CHUNK_BYTES]) for at in range(0, len(data), CHUNK_BYTES))


class WithTicket:
    """A stub whose calls all carry a ticket.

    Not by an interceptor: grpc.aio's intercepted streams leave unfinished tasks behind when a server is killed.
    """

    def __init__(self, stub: object, ticket: str) -> None:
        self._stub = stub
        self._metadata = (("authorization", f"Bearer {ticket}"),) if ticket else ()

    def __getattr__(self, name: str) -> Any:
        return partial(getattr(self._stub, name), metadata=self._metadata)


class Client:
    """The three stubs with one ticket, and the calls that tests make often."""

    space = "users/ada"

    def __init__(self, opened: grpc.aio.Channel, ticket: str) -> None:
        self.blobs: Any = WithTicket(pb_grpc.BlobServiceStub(opened), ticket)
        self.spaces: Any = WithTicket(pb_grpc.SpaceServiceStub(opened), ticket)
        self.logs: Any = WithTicket(pb_grpc.LogServiceStub(opened), ticket)

    async def put_blob(self, data: bytes, *, digest: str = "", size: int | None = None) -> pb.PutBlobResponse:
        header = pb.PutBlobHeader(digest=digest or sha256(data), size_bytes=len(data) if size is None else size)
        requests = [pb.PutBlobRequest(header=header), *(pb.PutBlobRequest(chunk=chunk) for chunk in chunks(data))]
        answer: pb.PutBlobResponse = await self.blobs.PutBlob(iter(requests))
        return answer

    async def get_blob(self, digest: str, offset: int = 0) -> bytes:
        call = self.blobs.GetBlob(pb.GetBlobRequest(digest=digest, offset=offset))
        return b"".join([answer.chunk async for answer in call])

    async def put_file(self, name: str, data: bytes, **header: Any) -> pb.SpaceFile:
        answer: pb.PutFileResponse = await self.spaces.PutFile(self.file_requests(name, data, **header))
        return answer.file

    def file_requests(self, name: str, data: bytes, **header: Any) -> Iterator[pb.PutFileRequest]:
        told = {"space": self.space, "name": name, "size_bytes": len(data), "digest": sha256(data), **header}
        yield pb.PutFileRequest(header=pb.PutFileHeader(**told))
        for chunk in chunks(data):
            yield pb.PutFileRequest(chunk=chunk)

    async def get_file(self, name: str, offset: int = 0) -> tuple[pb.SpaceFile, bytes]:
        call = self.spaces.GetFile(pb.GetFileRequest(space=self.space, name=name, offset=offset))
        answers = [answer async for answer in call]
        return answers[0].file, b"".join(answer.chunk for answer in answers[1:])

    async def names(self) -> list[str]:
        return [file.name for file in (await self.spaces.ListSpace(pb.ListSpaceRequest(space=self.space))).files]

    async def append(self, *pieces: tuple[int, int, bytes], log: str = "job-1") -> int:
        """Appends (attempt, writer offset, bytes) in one stream; returns the last offset that was confirmed."""
        requests = [
            pb.AppendLogRequest(log=log, attempt=attempt, writer_offset=offset, chunk=data)
            for attempt, offset, data in pieces
        ]
        confirmed: list[int] = [answer.writer_offset async for answer in self.logs.AppendLog(iter(requests))]
        return confirmed[-1]

    async def close_log(self, log: str = "job-1", *, attempt: int = 0) -> None:
        await self.logs.CloseLog(pb.CloseLogRequest(log=log, attempt=attempt))

    def read_log(self, offset: int = 0, *, follow: bool = False, log: str = "job-1") -> Any:
        return self.logs.ReadLog(pb.ReadLogRequest(log=log, offset=offset, follow=follow))

    async def whole_log(self, offset: int = 0, **options: Any) -> bytes:
        return b"".join([answer.chunk async for answer in self.read_log(offset, **options)])


class Storage:
    """Where a storage service is, and how to get in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.key_file = folder / "key"
        self.signer = TicketSigner(load_or_create_key(self.key_file))
        self.address = ""
        self._open = AsyncExitStack()

    async def client(self, **rights: str | int) -> Client:
        """A client with these rights, or with all that a user's job could have."""
        ticket = Ticket.lasting("ada", 600, **(rights or ALL_RIGHTS))
        return Client(await self._open.enter_async_context(channel(self.address)), self.signer.sign(ticket))

    async def disconnect(self) -> None:
        await self._open.aclose()

    def incoming(self) -> list[Path]:
        return list((self.data / "incoming").iterdir())


class InFolder:
    """What a service keeps in its data folder, seen from outside."""

    settings: Mapping[str, Any] = {}

    def __init__(self, data: Path) -> None:
        self._data = data

    def keys(self, folder: str) -> list[str]:
        return [path.relative_to(self._data).as_posix() for path in (self._data / folder).rglob("*") if path.is_file()]

    def write(self, key: str, content: bytes) -> None:
        (self._data / key).write_bytes(content)

    def read(self, key: str) -> bytes:
        return (self._data / key).read_bytes()


class InProcess(Storage):
    """A service in this process."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(folder)
        self.registry = CollectorRegistry()
        told = {"data_dir": self.data, "internal_key_file": self.key_file, "min_free_bytes": 0, **settings}
        self._settings = StorageSettings(**told)
        self.parts: Sequence[Any] = ()

    async def start(self) -> None:
        self.parts = await build(self._settings, self.registry)
        for part in self.parts:
            await part.start()
        self.address = next(part.address for part in self.parts if isinstance(part, GrpcServer))

    async def stop(self) -> None:
        await self.disconnect()
        for part in reversed(self.parts):
            await part.stop()


class OwnProcess(Storage):
    """A service in a process of its own."""

    process: subprocess.Popen[bytes]

    async def start(self, *prefix: str, **settings: Any) -> None:
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        told = {"data_dir": self.data, "internal_key_file": self.key_file, "min_free_bytes": 0, "ready_file": ready}
        told |= settings
        environment = {f"QONDUIT_STORAGE_{name.upper()}": str(value) for name, value in told.items()}
        command = [*prefix, sys.executable, "-c", SERVICE]
        self.process = subprocess.Popen(command, env={**os.environ, **environment})  # noqa: ASYNC220 - Outlives this.
        async with asyncio.timeout(100):
            while not ready.exists():
                assert self.process.poll() is None, "the service ended while starting"
                await asyncio.sleep(0.02)  # Another process writes this file; nothing can be awaited.
        self.address = f"127.0.0.1:{json.loads(ready.read_text())['grpc_port']}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """The port of an S3 server."""
    from s3_server import s3_server  # noqa: PLC0415 - Needs what a service on a directory does not.

    with pytest.MonkeyPatch.context() as patch, s3_server() as port:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        yield port


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.slow)])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Where the service keeps blobs and files: each test runs with both."""
    if request.param == "directory":
        return InFolder(tmp_path / "data")
    from s3_server import InBucket  # noqa: PLC0415 - As above.

    return InBucket(request.getfixturevalue("s3_port"))


@pytest.fixture
async def storage(tmp_path: Path, kept: Any) -> AsyncIterator[InProcess]:
    made = InProcess(tmp_path, **kept.settings)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def client(storage: InProcess) -> Client:
    return await storage.client()


@pytest.fixture
async def make_storage(tmp_path: Path, kept: Any) -> AsyncIterator[Callable[..., Any]]:
    """Starts services in this process with other settings, one after another on the same data."""
    async with AsyncExitStack() as stack:

        async def make(**settings: Any) -> InProcess:
            made = InProcess(tmp_path, **{**kept.settings, **settings})
            await made.start()
            stack.push_async_callback(made.stop)
            return made

        yield make


@pytest.fixture
async def own_process(tmp_path: Path) -> AsyncIterator[OwnProcess]:
    made = OwnProcess(tmp_path)
    yield made
    made.kill()
    await made.disconnect()


@asynccontextmanager
async def refused(code: grpc.StatusCode, reason: str, *words: str) -> AsyncIterator[None]:
    """The block ends with this refusal, whose text contains the words."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    error = from_rpc_error(caught.value)
    assert (error.code, error.reason) == (code, reason), error.text
    missing = [word for word in words if word not in error.text]
    assert not missing, f"{error.text!r} does not say {missing}"


@pytest.fixture
def must_refuse() -> Callable[..., Any]:
    return refused


@pytest.fixture
def slow_senders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service, which is in this process, lets a client send all it has, though either may stop for seconds."""
    for name in ("_HEAR_OUT_S", "_PAUSE_S"):
        monkeypatch.setattr(interceptors, name, 100.0)


@pytest.fixture
def make_tar() -> Callable[..., bytes]:
    return tar_of
