"""The storage service beside `cp` and beside a gRPC stream that does nothing, in one run.

    python bench/storage.py [--rounds 3] [--folder FOLDER] [--large-gb 10]

Each round moves the same archive of 1 GB, one way after another, each time another way first: `cp` with fsync, a bare
gRPC stream of chunks that nobody looks at, and the service, which hashes, checks, writes and makes durable; also the
service without sha256, and without sha256 and disk, to see what these cost. CPU is of client and server. Then small
files, a list of 100,000, and the service's memory after a file of 10 GB. The folder must be on a disk.
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
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil
from qonduit_api.internal.v1 import storage_pb2 as pb
from qonduit_api.internal.v1 import storage_pb2_grpc as pb_grpc
from qonduit_service_kit.rpc import channel
from qonduit_service_kit.tickets import Ticket, TicketSigner, load_or_create_key
from qonduit_storage.spaces.records import FileRecord, folder_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

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

_LESS: Final = """
import os, runpy, types
from qonduit_storage import incoming

class Announced:
    update = staticmethod(lambda piece: None)
    hexdigest = staticmethod(lambda: os.environ["BENCH_DIGEST"])

incoming.hashlib = types.SimpleNamespace(sha256=Announced)
if os.environ["BENCH_WITHOUT"] == "sha256 and disk":
    incoming.BlockFile.write = lambda file, piece: None
runpy.run_module("qonduit_storage", run_name="__main__")
"""
"""The service without what its uploads must do beside receiving: so that it can be seen what that costs."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A tar on disk."""

    path: Path
    size_bytes: int
    digest: str


class Service:
    """A storage service in a process of its own."""

    def __init__(self, folder: Path, without: str = "", digest: str = "") -> None:
        self.data = folder / "data"
        self._folder = folder
        self._key = folder / "key"
        self._command = ("-c", _LESS) if without else ("-m", "qonduit_storage")
        self._less = {"BENCH_WITHOUT": without, "BENCH_DIGEST": digest}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Start it; returns its address."""
        self._folder.mkdir(exist_ok=True)
        ready = self._folder / "ready.json"
        ready.unlink(missing_ok=True)
        settings = {"DATA_DIR": self.data, "INTERNAL_KEY_FILE": self._key, "READY_FILE": ready}
        environment = {f"QONDUIT_STORAGE_{name}": str(value) for name, value in settings.items()}
        told = {**os.environ, **environment, **self._less}
        self.process = subprocess.Popen([sys.executable, *self._command], env=told)
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


@dataclass(frozen=True, slots=True)
class Server:
    """A server in a process of its own, and what calls it."""

    stub: Any
    pid: int


@asynccontextmanager
async def bare_server() -> AsyncIterator[Server]:
    """One that takes and gives chunks, and does nothing else."""
    command = [sys.executable, "-c", _BARE]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: ASYNC220 - Starting it is quick.
        assert process.stdout is not None
        try:
            async with channel(f"127.0.0.1:{int(process.stdout.readline())}") as opened:
                yield Server(pb_grpc.SpaceServiceStub(opened), process.pid)
        finally:
            process.terminate()


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[Server]:
    """The service."""
    try:
        async with channel(service.start()) as opened:
            assert service.process is not None
            yield Server(WithTicket(pb_grpc.SpaceServiceStub(opened), service.ticket()), service.process.pid)
    finally:
        service.stop()


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


@dataclass(frozen=True, slots=True)
class Taken:
    """What a way took: seconds, and CPU seconds of this process and its server."""

    wall_s: float
    cpu_s: float


async def measured(work: Awaitable[Any], server: Server | None) -> Taken:
    """Return what it takes."""
    processes = [psutil.Process(pid) for pid in (os.getpid(), *([server.pid] if server else []))]

    def cpu_s() -> float:
        return sum(times.user + times.system for times in (process.cpu_times() for process in processes))

    before = cpu_s()
    wall_s = await timed(work)
    return Taken(wall_s, cpu_s() - before)


async def timed(work: Awaitable[Any]) -> float:
    """Return the seconds that it takes."""
    begin = time.perf_counter()
    await work
    return time.perf_counter() - begin


async def throughput(archive: Archive, folder: Path, rounds: int) -> None:
    """Print MB/s and CPU seconds up and down, and how the service stands beside the bare stream of the same round."""
    async with AsyncExitStack() as stack:
        bare = await stack.enter_async_context(bare_server())
        ours = await stack.enter_async_context(running(Service(folder / "whole")))
        less = {
            what: await stack.enter_async_context(running(Service(folder / what, what, archive.digest)))
            for what in ("sha256 and disk", "sha256")
        }
        up = partial(put, archive=archive, name="1gb.tar")
        ways: dict[str, tuple[Server | None, Callable[[], Awaitable[Any]]]] = {
            "cp + fsync": (None, lambda: asyncio.to_thread(copy, archive, folder / "copy")),
            "bare stream, up": (bare, lambda: up(bare.stub)),
            **{
                f"service without {without}, up": (server, partial(up, server.stub)) for without, server in less.items()
            },
            "service, up": (ours, lambda: up(ours.stub)),
            "bare stream, down": (bare, lambda: get(bare.stub, "", -(-archive.size_bytes // CHUNK_BYTES))),
            "service, down": (ours, lambda: get(ours.stub, "1gb.tar")),
        }
        await up(ours.stub)
        taken: dict[str, list[Taken]] = {name: [] for name in ways}
        for number in range(rounds):
            names = list(ways)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                await asyncio.to_thread(os.sync)
                server, way = ways[name]
                taken[name].append(await measured(way(), server))
                print(f"  {name}: {taken[name][-1].wall_s:.2f} s", file=sys.stderr, flush=True)
    print("| 1 GB | MB/s | CPU s | of the bare stream |\n|---|---|---|---|")
    for name, values in taken.items():
        speeds = [archive.size_bytes / 1e6 / each.wall_s for each in values]
        base = taken.get(f"bare stream, {name.rpartition(' ')[2]}", values)
        share = statistics.median(b.wall_s / v.wall_s for b, v in zip(base, values, strict=True))
        print(
            f"| {name} | {statistics.median(speeds):,.0f} ({min(speeds):,.0f}-{max(speeds):,.0f}) | "
            f"{statistics.median(each.cpu_s for each in values):.2f} | {f'{share:.0%}' if base != values else ''} |"
        )


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
        archive = await asyncio.to_thread(make_archive, folder / "1gb.tar", GB)
        await throughput(archive, folder, options.rounds)
        archive.path.unlink()
        service = Service(folder / "service")
        async with running(service) as server:
            await small_files(server.stub, folder)
            large = await asyncio.to_thread(make_archive, folder / "large.tar", options.large_gb * GB)
            before = service.memory_mb("VmRSS")
            await put(server.stub, large, "large.tar")
            await get(server.stub, "large.tar")
            print(
                f"\nMemory of the service: {before:.0f} MB before a file of {options.large_gb} GB went in and out, "
                f"{service.memory_mb('VmRSS'):.0f} MB after it, {service.memory_mb('VmHWM'):.0f} MB at most."
            )
        await asyncio.to_thread(fill_space, service.data)
        async with running(service) as server:
            first, again = await timed(list_all(server.stub)), await timed(list_all(server.stub))
            print(
                f"\nA list of {await list_all(server.stub):,} files: {first:.1f} s the first time after a start, "
                f"{again:.2f} s then; the service has {service.memory_mb('VmRSS'):.0f} MB."
            )


if __name__ == "__main__":
    asyncio.run(main())
