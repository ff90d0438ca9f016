"""The storage service beside `cp` and beside a gRPC stream that does nothing, in one run.

    python bench/storage.py [--rounds 3] [--folder FOLDER] [--large-gb 10]

Each round moves the same archive of 1 GB, one way after another, each time another way first: `cp` with fsync, a bare
gRPC stream of chunks that nobody looks at, and the service, which hashes, checks, writes and makes durable. What
hashing and writing alone cost the stream is shown by the bare stream beside two processes that hash and write as many
bytes of their own, and exchange nothing with it. Then small files, a list of 100,000, and the service's memory after
a file of 10 GB. The folder must be on a disk.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from qonduit_api.internal.v1 import storage_pb2 as pb
from qonduit_api.internal.v1 import storage_pb2_grpc as pb_grpc
from qonduit_service_kit.rpc import channel
from qonduit_service_kit.tickets import Ticket, TicketSigner, load_or_create_key
from qonduit_storage.spaces.records import FileRecord, folder_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

SPACE: Final = "users/bench"
CHUNK_BYTES: Final = 1024**2
GB: Final = 1000**3
SMALL_FILES: Final = 2000
AT_ONCE: Final = 8
LISTED: Final = 100_000
_READY_S: Final = 60.0
_BARE: Final = """
import asyncio, sys
import grpc.aio
from qonduit_api.internal.v1 import storage_pb2 as pb, storage_pb2_grpc as pb_grpc

class Bare(pb_grpc.SpaceServiceServicer):
    async def PutFile(self, requests, context):
        async for _ in requests:
            pass
        return pb.PutFileResponse()

    async def GetFile(self, request, context):
        chunk = bytes(1024**2)
        for _ in range(request.offset):
            yield pb.GetFileResponse(chunk=chunk)

async def main():
    server = grpc.aio.server()
    pb_grpc.add_SpaceServiceServicer_to_server(Bare(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()

asyncio.run(main())
"""

_ASIDE: Final = """
import hashlib, mmap, os, sys

kind, size, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
block = 1024**2
memory = memoryview(mmap.mmap(-1, size))
for at in range(0, size, block):
    memory[at : at + block] = os.urandom(16) * (block // 16)
print(flush=True)
for _ in sys.stdin:
    if kind == "hash":
        sha256 = hashlib.sha256()
        for at in range(0, size, block):
            sha256.update(memory[at : at + block])
    else:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600)
        for at in range(0, size, block):
            os.write(file, memory[at : at + block])
        os.fsync(file)
        os.close(file)
        os.unlink(path)
    print(flush=True)
"""


@dataclass(frozen=True, slots=True)
class Archive:
    """A tar on disk."""

    path: Path
    size_bytes: int
    digest: str


class Service:
    """A storage service in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self._folder = folder
        self._key = folder / "key"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Start it; returns its address."""
        ready = self._folder / "ready.json"
        ready.unlink(missing_ok=True)
        settings = {"DATA_DIR": self.data, "INTERNAL_KEY_FILE": self._key, "READY_FILE": ready}
        environment = {f"QONDUIT_STORAGE_{name}": str(value) for name, value in settings.items()}
        self.process = subprocess.Popen([sys.executable, "-m", "qonduit_storage"], env={**os.environ, **environment})
        until = time.monotonic() + _READY_S
        while not ready.exists():
            if self.process.poll() is not None or time.monotonic() > until:
                sys.exit("the storage service did not start")
            time.sleep(0.02)
        return f"127.0.0.1:{json.loads(ready.read_text())['grpc_port']}"

    def stop(self) -> None:
        """End it; safe to call twice."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def ticket(self) -> tuple[tuple[str, str], ...]:
        """Return what opens the space."""
        signer = TicketSigner(load_or_create_key(self._key))
        ticket = Ticket.lasting("bench", 24 * 3600, read_space=SPACE, write_space=SPACE)
        return (("authorization", f"Bearer {signer.sign(ticket)}"),)

    def memory_mb(self, field: str) -> float:
        """Return VmRSS or VmHWM (the most it ever was)."""
        assert self.process is not None
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024 / 1e6
        raise KeyError(field)


@contextmanager
def bare_server() -> Iterator[str]:
    """A server that takes and gives chunks, and does nothing else; yields its address."""
    with subprocess.Popen([sys.executable, "-c", _BARE], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


@asynccontextmanager
async def aside(kind: str, size_bytes: int, path: Path) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """A process that hashes or writes so many bytes of its own past the cache; yields what has it do so once."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _ASIDE, kind, str(size_bytes), str(path)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    orders, answers = process.stdin, process.stdout

    async def answered() -> None:
        if not await answers.readline():
            sys.exit(f"what should {kind} beside the stream ended")

    async def once() -> None:
        orders.write(b"\n")
        await answered()

    await answered()
    try:
        yield once
    finally:
        orders.close()
        await process.wait()


def make_archive(path: Path, size_bytes: int) -> Archive:
    """Write a tar with one member of bytes that no file system can make smaller."""
    block = os.urandom(16 * CHUNK_BYTES)
    info = tarfile.TarInfo("member")
    info.size = size_bytes
    with path.open("wb") as file:
        file.write(info.tobuf(tarfile.PAX_FORMAT))
        for start in range(0, size_bytes, len(block)):
            file.write(block[: size_bytes - start])
        file.write(bytes(-size_bytes % 512 + 1024))
        file.flush()
        os.fsync(file.fileno())
    with path.open("rb") as file:
        return Archive(path, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


async def put(stub: Any, archive: Archive, name: str) -> None:
    """Send a file in chunks of 1 MiB."""

    async def requests() -> AsyncIterator[pb.PutFileRequest]:
        header = pb.PutFileHeader(space=SPACE, name=name, size_bytes=archive.size_bytes, digest=archive.digest)
        yield pb.PutFileRequest(header=header)
        with archive.path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield pb.PutFileRequest(chunk=chunk)

    await stub.PutFile(requests())


async def get(stub: Any, name: str, chunks: int = 0) -> int:
    """Receive a file, or so many chunks of a bare stream; returns the bytes."""
    seen = 0
    async for answer in stub.GetFile(pb.GetFileRequest(space=SPACE, name=name, offset=chunks)):
        seen += len(answer.chunk)
    return seen


def copy(archive: Archive, target: Path) -> None:
    """What `cp` and `sync` do."""
    shutil.copyfile(archive.path, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    target.unlink()


class WithTicket:
    """A stub whose calls carry a ticket."""

    def __init__(self, stub: object, ticket: tuple[tuple[str, str], ...]) -> None:
        self._stub = stub
        self._ticket = ticket

    def __getattr__(self, name: str) -> Any:
        return partial(getattr(self._stub, name), metadata=self._ticket)


async def timed(work: Awaitable[Any]) -> float:
    """Return the seconds that it takes."""
    begin = time.perf_counter()
    await work
    return time.perf_counter() - begin


async def throughput(ours: Any, bare: Any, archive: Archive, folder: Path, rounds: int) -> None:
    """Print MB/s up and down, and how the service stands beside the bare stream of the same round."""
    chunks = -(-archive.size_bytes // CHUNK_BYTES)
    size = chunks * CHUNK_BYTES
    async with aside("hash", size, folder / "aside") as hashed, aside("write", size, folder / "aside") as written:
        ways: dict[str, Callable[[], Awaitable[Any]]] = {
            "cp + fsync": lambda: asyncio.to_thread(copy, archive, folder / "copy"),
            "bare stream, up": lambda: put(bare, archive, "1gb.tar"),
            "bare stream beside sha256 and writing, up": lambda: asyncio.gather(
                put(bare, archive, "1gb.tar"), hashed(), written()
            ),
            "service, up": lambda: put(ours, archive, "1gb.tar"),
            "bare stream, down": lambda: get(bare, "", chunks),
            "service, down": lambda: get(ours, "1gb.tar"),
        }
        await put(ours, archive, "1gb.tar")
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds):
            names = list(ways)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                await asyncio.to_thread(os.sync)
                seconds[name].append(await timed(ways[name]()))
                print(f"  {name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    print("| 1 GB | MB/s | of the bare stream |\n|---|---|---|")
    for name, values in seconds.items():
        speeds = [archive.size_bytes / 1e6 / value for value in values]
        base = seconds.get(f"bare stream, {name.rpartition(' ')[2]}", values)
        share = f"{statistics.median(b / v for b, v in zip(base, values, strict=True)):.0%}" if base != values else ""
        print(f"| {name} | {statistics.median(speeds):,.0f} ({min(speeds):,.0f}-{max(speeds):,.0f}) | {share} |")


async def small_files(ours: Any, folder: Path) -> None:
    """Print how many files of 10 KB are stored, and fetched, a second."""
    archive = make_archive(folder / "small.tar", 8_000)
    gate = asyncio.Semaphore(AT_ONCE)

    async def each(work: Callable[[str], Awaitable[Any]]) -> float:
        async def one(number: int) -> None:
            async with gate:
                await work(f"small-{number}.tar")

        return SMALL_FILES / await timed(asyncio.gather(*(one(number) for number in range(SMALL_FILES))))

    up = await each(lambda name: put(ours, archive, name))
    down = await each(lambda name: get(ours, name))
    print(
        f"\nSmall files ({archive.size_bytes:,} bytes, {AT_ONCE} at once): {up:,.0f}/s stored, {down:,.0f}/s fetched."
    )


def fill_space(data: Path) -> None:
    """Lay 100,000 files down as the service keeps them: one content, a record a name."""
    space = folder_name(SPACE)
    records = data / "spaces" / space[:2] / space / "records"
    records.mkdir(parents=True, exist_ok=True)
    some = FileRecord.from_json(next(records.iterdir()).read_bytes())
    for number in range(LISTED):
        record = FileRecord(f"listed-{number:06}.tar", some.size_bytes, some.digest, time.time_ns())
        (records / f"{folder_name(record.name)}.json").write_bytes(record.to_json())


async def list_all(ours: Any) -> int:
    """Read all pages of the list."""
    count, token = 0, ""
    while True:
        page = await ours.ListSpace(pb.ListSpaceRequest(space=SPACE, page_token=token), timeout=600)
        count += len(page.files)
        token = page.next_page_token
        if not token:
            return count


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument(
        "--folder", type=Path, default=Path.cwd() / ".cache", help="where to work; default: %(default)s"
    )
    parser.add_argument("--large-gb", type=int, default=10, help="size of the large file (default: %(default)s)")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-storage-") as name:
        folder = Path(name)
        service = Service(folder)
        try:
            with bare_server() as bare_address:
                async with channel(bare_address) as bare_channel, channel(service.start()) as opened:
                    ours = WithTicket(pb_grpc.SpaceServiceStub(opened), service.ticket())
                    archive = await asyncio.to_thread(make_archive, folder / "1gb.tar", GB)
                    bare = pb_grpc.SpaceServiceStub(bare_channel)
                    await throughput(ours, bare, archive, folder, options.rounds)
                    archive.path.unlink()
                    await small_files(ours, folder)
                    large = await asyncio.to_thread(make_archive, folder / "large.tar", options.large_gb * GB)
                    before = service.memory_mb("VmRSS")
                    await put(ours, large, "large.tar")
                    await get(ours, "large.tar")
                    after, most = service.memory_mb("VmRSS"), service.memory_mb("VmHWM")
                    print(
                        f"\nMemory of the service: {before:.0f} MB before a file of {options.large_gb} GB went in and "
                        f"out, {after:.0f} MB after it, {most:.0f} MB at most."
                    )
            service.stop()
            await asyncio.to_thread(fill_space, service.data)
            async with channel(service.start()) as opened:
                ours = WithTicket(pb_grpc.SpaceServiceStub(opened), service.ticket())
                first, again = await timed(list_all(ours)), await timed(list_all(ours))
                print(
                    f"\nA list of {await list_all(ours):,} files: {first:.1f} s the first time after a start, "
                    f"{again:.2f} s then; the service has {service.memory_mb('VmRSS'):.0f} MB."
                )
        finally:
            service.stop()


if __name__ == "__main__":
    asyncio.run(main())
