"""The service dies at any moment, or its disk is full: nothing half-written, nothing promised is lost."""

# ruff: noqa: S311 - Random bytes are content here, and the same in each run.

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
import re
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc import StatusCode
from qonduit_api.internal.v1 import storage_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

pytestmark = pytest.mark.slow

ROUNDS = 5
MIB = 1024 * 1024


class Uploads:
    """Uploads that run until the service dies, and what it said it had kept."""

    def __init__(self, client: Any, make_tar: Callable[..., bytes], chance: random.Random) -> None:
        self._client = client
        self._make_tar = make_tar
        self._chance = chance
        self._chunks_left = chance.randrange(1, 120)
        self.half_way = asyncio.Event()
        self.blobs: set[str] = set()
        self.kept: dict[str, int] = {}
        """How many versions of a file were confirmed."""
        self.sent: dict[str, list[str]] = {}
        self.log_confirmed = 0

    async def run(self) -> None:
        """Until the service is gone."""
        works = (self._put_blobs(), self._put_files("a.tar"), self._put_files("b.tar"), self._write_log())
        for error in await asyncio.gather(*works, return_exceptions=True):
            assert isinstance(error, grpc.aio.AioRpcError), error
            assert error.code() in (StatusCode.UNAVAILABLE, StatusCode.INTERNAL)  # The latter from under a write.

    def _counted(self, requests: Iterable[Any]) -> Iterator[Any]:
        for request in requests:
            self._chunks_left -= 1
            if self._chunks_left <= 0:
                self.half_way.set()
            yield request

    async def _put_blobs(self) -> None:
        while True:
            data = self._chance.randbytes(300_000)
            digest = hashlib.sha256(data).hexdigest()
            header = pb.PutBlobRequest(header=pb.PutBlobHeader(digest=digest, size_bytes=len(data)))
            parts = [pb.PutBlobRequest(chunk=data[at : at + 50_000]) for at in range(0, len(data), 50_000)]
            await self._client.blobs.PutBlob(self._counted([header, *parts]))
            self.blobs.add(digest)

    async def _put_files(self, name: str) -> None:
        while True:
            data = self._make_tar(self._chance.randbytes(200_000))
            digest = hashlib.sha256(data).hexdigest()
            self.sent.setdefault(name, []).append(digest)
            await self._client.spaces.PutFile(self._counted(self._client.file_requests(name, data)))
            self.kept[name] = len(self.sent[name])

    async def _write_log(self) -> None:
        stream = self._client.logs.AppendLog()
        for number in itertools.count():
            chunk = b"%07d\n" % number
            await stream.write(
                pb.AppendLogRequest(log=self._client.space, attempt=1, writer_offset=8 * number, chunk=chunk)
            )
            answer = await stream.read()
            if answer is grpc.aio.EOF:
                break
            self.log_confirmed = answer.writer_offset


async def test_killed_at_random_moments_it_loses_nothing_and_keeps_no_half(
    own_process: Any, make_tar: Callable[..., bytes]
) -> None:
    chance = random.Random(20)
    blobs: set[str] = set()
    await own_process.start(log_sync_interval_s=0.005)
    for number in range(ROUNDS):
        client = await own_process.client(service="gateway")
        client.space = f"users/round-{number}"
        uploads = Uploads(client, make_tar, chance)
        running = asyncio.create_task(uploads.run())
        await asyncio.wait_for(uploads.half_way.wait(), 100)
        own_process.kill()
        await asyncio.wait_for(running, 100)
        await own_process.start(log_sync_interval_s=0.005)
        await check_after_crash(own_process, uploads, client.space)
        blobs |= uploads.blobs
        client = await own_process.client()
        for digest in blobs:
            assert hashlib.sha256(await client.get_blob(digest)).hexdigest() == digest


async def test_killed_in_the_middle_of_two_hundred_uploads(own_process: Any, make_tar: Callable[..., bytes]) -> None:
    await own_process.start()
    client = await own_process.client()
    files = {f"{number}.tar": make_tar(random.Random(number).randbytes(50_000)) for number in range(200)}
    confirmed: set[str] = set()
    many, killed = asyncio.Event(), asyncio.Event()

    async def sent(name: str) -> AsyncIterator[pb.PutFileRequest]:
        header, *chunks = client.file_requests(name, files[name])
        yield header
        if int(name.removesuffix(".tar")) % 10 == 0:  # Half-way when it dies, however late that is.
            await killed.wait()
        for chunk in chunks:
            yield chunk

    async def put(name: str) -> None:
        with suppress(grpc.aio.AioRpcError):
            await client.spaces.PutFile(sent(name))
            confirmed.add(name)
            if len(confirmed) >= 70:
                many.set()

    uploads = asyncio.gather(*(put(name) for name in files))
    await asyncio.wait_for(many.wait(), 100)
    own_process.kill()
    killed.set()
    await asyncio.wait_for(uploads, 100)
    assert len(confirmed) <= len(files) - 20
    await own_process.disconnect()
    await own_process.start()
    client = await own_process.client()
    names = await client.names()
    assert confirmed <= set(names)
    for name in names:
        assert (await client.get_file(name))[1] == files[name]
    assert own_process.incoming() == []
    kept = [path.parent.name for path in (own_process.data / "spaces").glob("*/*/*/*")]
    assert kept.count("content") == kept.count("records") == len(names)
    # Those that were not confirmed are sent again, whether they are there or not.
    await asyncio.gather(*(client.put_file(name, files[name]) for name in files if name not in confirmed))
    assert set(await client.names()) == set(files)


async def check_after_crash(service: Any, uploads: Uploads, space: str) -> None:
    client = await service.client(service="gateway")
    client.space = space
    assert service.incoming() == []
    names = await client.names()
    assert set(names) >= set(uploads.kept)
    for name in names:
        told, data = await client.get_file(name)
        assert hashlib.sha256(data).hexdigest() == told.digest
        # The last version that was confirmed, or one that was sent after it.
        assert uploads.sent[name].index(told.digest) >= uploads.kept.get(name, 0) - 1
    log = await client.whole_log(log=space)
    assert len(log) >= uploads.log_confirmed
    assert log == b"".join(b"%07d\n" % number for number in range(len(log) // 8))
    contents = list((service.data / "spaces").glob("*/*/content/*"))
    records = list((service.data / "spaces").glob("*/*/records/*"))
    assert len(contents) == len(records)


async def test_fifty_megabytes_in_flat_memory(own_process: Any, make_tar: Callable[..., bytes]) -> None:
    await own_process.start()
    client = await own_process.client()
    data = make_tar(random.Random(1).randbytes(MIB) * 50)
    await client.put_blob(data[: 2 * MIB])  # Everything is loaded that will be.
    before = peak_bytes(own_process.process.pid)
    answer = await client.put_blob(data)
    assert await client.get_blob(answer.digest) == data
    await client.put_file("large.tar", data)
    assert (await client.get_file("large.tar"))[1] == data
    assert peak_bytes(own_process.process.pid) - before < 30 * MIB


def peak_bytes(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


async def test_a_second_service_on_the_same_folder_is_refused(own_process: Any, tmp_path: Path) -> None:
    await own_process.start()
    second = type(own_process)(tmp_path)
    with pytest.raises(AssertionError, match="ended while starting"):
        await second.start(ready_file=tmp_path / "second.json")
    assert second.process.returncode == 1


@pytest.fixture
def small_disk_prefix(own_process: Any) -> tuple[str, ...]:
    """Starts a program that sees a small file system as the data folder, in a mount namespace of its own."""
    script = f'mkdir -p {own_process.data} && mount -t tmpfs -o size=6m tmpfs {own_process.data} && exec "$@"'
    prefix = ("unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh")
    probe = subprocess.run([*prefix, "true"], check=False, capture_output=True)
    if probe.returncode:
        pytest.skip("no file system can be mounted here")
    return prefix


@pytest.fixture
async def small_disk(own_process: Any, small_disk_prefix: tuple[str, ...]) -> Any:
    await own_process.start(*small_disk_prefix)
    own_process.data = Path(f"/proc/{own_process.process.pid}/root{own_process.data}")
    return own_process


async def test_a_full_disk_is_said_and_the_service_goes_on(
    small_disk: Any, make_tar: Callable[..., bytes], must_refuse: Callable[..., Any]
) -> None:
    client = await small_disk.client()
    await client.put_file("small.tar", make_tar(b"small"))
    async with must_refuse(StatusCode.RESOURCE_EXHAUSTED, "DISK_FULL", "Delete files"):
        await client.put_blob(bytes(7 * MIB))
    # What fits when it starts may still not fit: here something else takes the room while the file is on its way.
    first = await client.put_blob(bytes(3 * MIB))
    half = asyncio.Event()

    async def slowly() -> AsyncIterator[pb.PutFileRequest]:
        requests = list(client.file_requests("large.tar", make_tar(random.Random(3).randbytes(2 * MIB))))
        for request in requests[:17]:
            yield request
        half.set()
        await disk_is_full.wait()
        for request in requests[17:]:
            yield request

    disk_is_full = asyncio.Event()
    writing = asyncio.ensure_future(client.spaces.PutFile(slowly()))
    await half.wait()
    filler = small_disk.data / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    disk_is_full.set()
    async with must_refuse(StatusCode.RESOURCE_EXHAUSTED, "DISK_FULL", "nothing of this was kept"):
        await writing
    assert small_disk.incoming() == []
    assert await client.names() == ["small.tar"]
    filler.unlink()
    assert await client.get_blob(first.digest) == bytes(3 * MIB)
    await client.put_file("fits.tar", make_tar(b"now"))
    assert await client.names() == ["fits.tar", "small.tar"]


async def test_a_disk_that_became_read_only_is_said_and_all_can_be_read(
    small_disk: Any, make_tar: Callable[..., bytes], must_refuse: Callable[..., Any]
) -> None:
    client = await small_disk.client()
    await client.put_file("a.tar", make_tar(b"a"))
    place = str(small_disk.data).partition("/root")[2]
    into = ("nsenter", f"--target={small_disk.process.pid}", "--user", "--mount", "--preserve-credentials")
    subprocess.run([*into, "mount", "-o", "remount,ro", place], check=True)  # noqa: ASYNC221 - A moment.
    for write in (
        lambda: client.put_file("b.tar", make_tar(b"b")),
        lambda: client.put_blob(b"some"),
        lambda: client.append((1, 0, b"a line\n")),
    ):
        async with must_refuse(StatusCode.INTERNAL, "DISK_FAILED", "Read-only", "Tell the operator"):
            await write()
    assert await client.names() == ["a.tar"]
    assert (await client.get_file("a.tar"))[1] == make_tar(b"a")
    subprocess.run([*into, "mount", "-o", "remount,rw", place], check=True)  # noqa: ASYNC221 - As above.
    await client.put_file("b.tar", make_tar(b"b"))
    assert await client.names() == ["a.tar", "b.tar"]


async def test_a_log_on_a_full_disk_keeps_whole_pieces_and_goes_on_later(
    small_disk: Any, must_refuse: Callable[..., Any]
) -> None:
    client = await small_disk.client()
    await client.append((1, 0, b"one\n"))
    filler = small_disk.data / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    async with must_refuse(StatusCode.RESOURCE_EXHAUSTED, "DISK_FULL"):
        await client.append((1, 4, bytes(100_000)))
    assert await client.whole_log() == b"one\n"
    filler.unlink()
    assert await client.append((1, 4, b"two\n")) == 8
    assert await client.whole_log() == b"one\ntwo\n"


async def test_room_is_kept_free(make_storage: Callable[..., Any], must_refuse: Callable[..., Any]) -> None:
    storage = await make_storage(min_free_bytes=2**60)
    client = await storage.client()
    async with must_refuse(StatusCode.RESOURCE_EXHAUSTED, "DISK_FULL", "are kept free"):
        await client.put_blob(b"x")
    async with must_refuse(StatusCode.RESOURCE_EXHAUSTED, "DISK_FULL", "are kept free"):
        await client.append((1, 0, b"x"))
