"""The demo: start a private stack, run the example programs on it, move files, stop the stack.

    make demo

Everything lives in a temporary folder and on free loopback ports; nothing is left running.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qiskit.circuit.random import random_circuit
from qonduit import Configuration, QiskitFunction, ServerlessClient
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qonduit import Job

PROGRAMS = Path(__file__).parent / "programs"
console = Console(highlight=False, soft_wrap=True)


@contextmanager
def private_stack(folder: Path) -> Iterator[None]:
    """Run a stack of its own while inside: `qonduit up --detach`, and `qonduit down` whatever happens."""
    qonduit = str(Path(sys.executable).with_name("qonduit"))
    os.environ["QONDUIT_PROFILE"] = str(folder / "profile.json")
    try:
        subprocess.run([qonduit, "up", "--detach", "--data-dir", str(folder)], check=True)
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # A second Ctrl-C must not leave a stack behind.
        subprocess.run([qonduit, "down", "--data-dir", str(folder)], check=False)


def show(job: Job) -> dict[str, object]:
    """Follow a job to its end, each change of its status as it comes, then what it used; return its result."""
    for status in job.follow():
        console.print(f"  {status}")
    result: dict[str, object] = job.result()
    timeline, usage = Table("time", "status", "more", box=None), Table("stage", box=None)
    for entry in job.timeline():
        timeline.add_row(entry.time.astimezone().strftime("%H:%M:%S.%f")[:-3], entry.status, entry.text)
    for heading in ("wall s", "CPU s", "QPU s", "peak MiB"):
        usage.add_column(heading, justify="right")
    for stage in job.usage().stages:
        seconds = (f"{stage.wall_s:.2f}", f"{stage.cpu_s:.2f}", f"{stage.qpu_s:.2f}")
        usage.add_row(stage.status, *seconds, f"{stage.peak_mem_bytes / 2**20:.0f}")
    console.print(timeline, usage, sep="\n")
    return result


def run(
    client: ServerlessClient, title: str, config: Configuration | None = None, **arguments: object
) -> dict[str, object]:
    """Upload one of the example programs, run it, and show the run."""
    console.rule(f"[bold]{title}")
    function = client.upload(QiskitFunction(title=title, entrypoint=f"{title}.py", working_dir=str(PROGRAMS)))
    result = show(function.run(config=config, **arguments))
    console.print("result:", {key: _short(value) for key, value in result.items()})
    return result


def _short(value: object) -> object:
    if isinstance(value, list):
        return [_short(item) for item in value]
    text = repr(value)
    return value if len(text) <= 100 else f"<{type(value).__name__}>"  # noqa: PLR2004 - What fits on a line.


def transpile_arguments() -> dict[str, object]:
    """Make what the transpiling programs take: three random circuits and a device."""
    circuits = [random_circuit(3, 3, seed=seed) for seed in range(3)]
    return {"circuit_list": circuits, "backend": "ibm_torino", "optimization_level": 1}


def move_files(client: ServerlessClient, folder: Path) -> None:
    """Send a tar in, use it in a program, fetch it out again."""
    console.rule("[bold]files")
    path = folder / "transpile_demo.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(PROGRAMS / "transpile_remote.py", arcname="transpile_remote.py")
    console.print(client.file_upload(str(path)))
    console.print("files:", client.files())
    run(client, "extract_tarfile")
    back = client.file_download(path.name, target_name="back.tar", download_location=str(folder))
    same = Path(back).read_bytes() == path.read_bytes()
    console.print(f"fetched back as {Path(back).name}: {'the same bytes' if same else 'OTHER BYTES'}")
    client.file_delete(path.name)
    if not same:
        raise SystemExit("a file came back changed")


def main() -> None:
    """Run the whole demo."""
    with tempfile.TemporaryDirectory(prefix="qonduit-demo-") as name, private_stack(folder := Path(name)):
        client = ServerlessClient()
        run(client, "status_example")
        run(client, "transpile_remote", **transpile_arguments())
        run(client, "transpile_remote_wide", **transpile_arguments())
        run(client, "sampler", backend="ibm_torino")
        run(client, "estimator", backend="ibm_torino")
        move_files(client, folder)
        console.rule("[bold]done")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nInterrupted; the stack was stopped.")
