"""The demo: start a private stack, run the example programs on it, move files, stop the stack.

    make demo

Everything lives in a temporary folder and on free loopback ports; nothing is left running.
"""

from __future__ import annotations

import os
import pprint
import signal
import subprocess
import sys
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qiskit import QuantumCircuit
from qiskit.circuit.random import random_circuit
from qonduit import Configuration, QiskitFunction, ServerlessClient
from rich.console import Console

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
    console.print(f"\n{job.timeline()}\n\n{job.usage()}\n")
    return result


def run(
    client: ServerlessClient, title: str, config: Configuration | None = None, **arguments: Any
) -> dict[str, object]:
    """Upload one of the example programs, run it, and show the run."""
    console.rule(f"[bold]{title}")
    function = client.upload(QiskitFunction(title=title, entrypoint=f"{title}.py", working_dir=str(PROGRAMS)))
    result = show(function.run(config=config, **arguments))
    console.print("result:", pprint.pformat(_short(result), width=100))
    return result


def _short(value: object) -> object:
    """Return a value as one would tell of it: circuits and large things by their size."""
    if isinstance(value, QuantumCircuit):
        return f"<circuit: {value.num_qubits} qubits, {value.size()} gates>"
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    return [_short(item) for item in value] if isinstance(value, list) else value


def transpile_arguments() -> dict[str, Any]:
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
