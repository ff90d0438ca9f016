"""Starts a private stack, has its numbers taken by a program that runs on it as a job, stops it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peers.peer_host import MeasuringError
from peers.session import MEMORY_AFTER, SETTLE_S, proportional_bytes
from peers.system import EXECUTORS
from qonduit import Configuration, Job, QiskitFunction, QonduitError, ServerlessClient

if TYPE_CHECKING:
    from collections.abc import Iterator

_HERE: Final = Path(__file__).parent
_SENT: Final = ("system.py", "measures.py", "workloads.py")
_IDLE_S: Final = 300.0
_READ_S: Final = 4 * SETTLE_S
"""For how long a program idles at its end so that the memory can be read."""
_STARTED_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Layout:
    """How many workers, and the cores that each offers and that the program asks for."""

    workers: int
    worker_cpu: float
    driver_cpu: float


ONE_WORKER: Final = Layout(workers=1, worker_cpu=4, driver_cpu=1)
"""The program and both executors fit; a job's limit of two cores for its tasks makes it exactly two."""
TWO_WORKERS: Final = Layout(workers=2, worker_cpu=1.9, driver_cpu=0.9)
"""Each has room for one executor, also while the program waits and lends its cores."""


def run_qonduit(names: list[str], timeout_s: float, layout: Layout) -> dict[str, float]:
    """Start a stack afresh, take the measures of these names, stop it.

    Raises:
        MeasuringError: The job that measures failed, or took longer than `timeout_s`.
    """
    with tempfile.TemporaryDirectory(prefix="bench-qonduit-") as folder, _stack(Path(folder), layout):
        profile = json.loads((Path(folder) / "profile.json").read_text())
        client = ServerlessClient(host=profile["address"], token=profile["token"])
        (sources := Path(folder) / "sources" / "peers").mkdir(parents=True)
        for name in _SENT:
            shutil.copy(_HERE / name, sources)
        shutil.copy(_HERE / "qonduit_program.py", sources.parent / "program.py")
        function = client.upload(
            QiskitFunction(title="bench-tasks", entrypoint="program.py", working_dir=str(sources.parent))
        )
        config = Configuration(cpu=layout.driver_cpu)

        def submit(wanted: list[str], idle_s: float) -> Job:
            return function.run(config=config, names=wanted, idle_s=idle_s, begun=time.time())

        try:
            submit([], 0).result(timeout=timeout_s)  # A first job: the caches of a worker in use are warm.
            numbers: dict[str, float] = {}
            if "memory" in names:
                idle = submit([], _IDLE_S)
                numbers["memory_mb"] = _idle_memory_mb(idle, Path(folder), _STARTED_S)
                idle.cancel()
            job = submit(names, _READ_S if MEMORY_AFTER in names else 0)
            if MEMORY_AFTER in names:
                numbers["memory_after_mb"] = _idle_memory_mb(job, Path(folder), timeout_s)
            found: dict[str, float] = job.result(timeout=timeout_s)
        except (QonduitError, TimeoutError) as error:
            raise MeasuringError(str(error)) from error
    return numbers | {name: value for name, value in found.items() if name != "first_s" or "first" in names}


@contextmanager
def _stack(folder: Path, layout: Layout) -> Iterator[None]:
    qonduit = str(Path(sys.executable).with_name("qonduit"))
    environment = {
        **os.environ,
        "QONDUIT_PROFILE": str(folder / "profile.json"),
        "QONDUIT_WORKER_CPU": str(layout.worker_cpu),
        "QONDUIT_GATEWAY_LIMIT_CPU_MILLIS": str(EXECUTORS * 1000),
    }
    options = ["--data-dir", str(folder)]
    up = [qonduit, "up", "--detach", "--workers", str(layout.workers), *options]
    done = subprocess.run(up, env=environment, capture_output=True, text=True, check=False)
    try:
        if done.returncode != 0:
            raise MeasuringError(f"the stack did not start: {done.stderr.strip() or done.stdout.strip()}")
        yield
    finally:
        subprocess.run([qonduit, "down", *options], env=environment, capture_output=True, check=False)


def _idle_memory_mb(job: Job, folder: Path, timeout_s: float) -> float:
    """Read the memory of the whole stack, a program that waits included, some seconds after its last task."""
    if not any("POST_PROCESSING" in status for status in job.follow(timeout=timeout_s)):
        raise MeasuringError(f"the idle program ended: {job.error_message()}")
    time.sleep(SETTLE_S)
    supervisor: int = json.loads((folder / "stack.json").read_text())["supervisor_pid"]
    return proportional_bytes([supervisor]) / 1e6
