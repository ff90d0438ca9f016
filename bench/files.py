"""A file of 1 GB as users move it: by the SDK, through gateway and storage, beside `cp` and sha256 of it, in one run.

    python bench/files.py [--rounds 5] [--folder FOLDER] [--beside CHECKOUT]

Each round uploads a file that the stack does not have, downloads it, and downloads it again. The SDK hashes a file
before it sends it and while it comes. With another checkout, its services run in a stack of their own, and take turns
with these. CPU is of the client, the gateway and storage. The folder must be on a disk.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil
from own_stack import own_stack
from storage import GB, copy, make_archive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qonduit import ServerlessClient

NAME: Final = "1gb.tar"
SERVICES: Final = ("gateway", "storage")


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack, and the processes that a file passes through."""

    client: ServerlessClient
    processes: dict[str, psutil.Process]

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU seconds that each has taken."""
        times = {name: process.cpu_times() for name, process in self.processes.items()}
        return {name: float(one.user + one.system) for name, one in times.items()}


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds, and CPU seconds by process."""

    wall_s: float
    cpu_s: dict[str, float]


@contextmanager
def stack(data_dir: Path, checkout: Path | None = None) -> Iterator[Stack]:
    """Run a stack without workers, with the services of a checkout."""
    sources = sorted(str(path) for path in checkout.glob("*/*/src")) if checkout else []
    path = os.pathsep.join((*sources, os.environ.get("PYTHONPATH", "")))
    with own_stack(data_dir, "--workers", "0", PYTHONPATH=path) as own, own.client() as client:
        processes = {name: psutil.Process(own.services[name]["pid"]) for name in SERVICES}
        yield Stack(client, {"client": psutil.Process(), **processes})


def measured(work: Callable[[], object], watched: Stack) -> Taken:
    """Return what it takes."""
    os.sync()
    before, begin = watched.cpu_s(), time.perf_counter()
    work()
    wall_s = time.perf_counter() - begin
    return Taken(wall_s, {name: used - before[name] for name, used in watched.cpu_s().items()})


def digest(file: Path) -> None:
    """What the SDK does before it sends."""
    with file.open("rb") as content:
        hashlib.file_digest(content, "sha256")


def round_trip(one: Stack, file: Path, folder: Path) -> dict[str, Taken]:
    """Move the file there and back, and back again."""
    target = folder / "back.tar"

    def download() -> None:
        one.client.file_download(NAME, download_location=folder, target_name=target.name, progress=False)

    taken = {"upload": measured(lambda: one.client.file_upload(file, progress=False), one)}
    for name in ("first download", "another download"):
        taken[name] = measured(download, one)
        target.unlink()
    one.client.file_delete(NAME)
    return taken


def report(found: dict[str, list[Taken]]) -> None:
    """Print the table."""
    print("| 1 GB | MB/s | seconds | CPU s of client, gateway, storage |\n|---|---|---|---|")
    for name, values in found.items():
        wall = [each.wall_s for each in values]
        cpu = [statistics.median(each.cpu_s[part] for each in values) for part in ("client", *SERVICES)]
        print(
            f"| {name} | {GB / 1e6 / statistics.median(wall):,.0f} "
            f"| {statistics.median(wall):.2f} ({min(wall):.2f}-{max(wall):.2f}) "
            f"| {', '.join(f'{used:.2f}' for used in cpu)} |"
        )


def main() -> None:
    """Measure and print."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # So that what was started is stopped.
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path.cwd() / ".cache", help="default: %(default)s")
    parser.add_argument("--beside", type=Path, help="another checkout, to take turns with")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stay:
        folder = Path(stay.enter_context(tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-files-")))
        archive = make_archive(folder / NAME, GB)
        stacks = {"": stay.enter_context(stack(folder / "this"))}
        if options.beside:
            stacks[", beside"] = stay.enter_context(stack(folder / "other", options.beside.resolve()))
        found: dict[str, list[Taken]] = {}
        for number in range(options.rounds):
            found.setdefault("cp + fsync", []).append(measured(lambda: copy(archive, folder / "copy"), stacks[""]))
            found.setdefault("sha256", []).append(measured(lambda: digest(archive.path), stacks[""]))
            for which in sorted(stacks, reverse=number % 2 == 1):
                for name, taken in round_trip(stacks[which], archive.path, folder).items():
                    found.setdefault(f"{name}{which}", []).append(taken)
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        report(found)


if __name__ == "__main__":
    main()
