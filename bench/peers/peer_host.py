"""Starts a peer in its own environment, with the servers that it needs, and takes its numbers."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import psutil
from peers.servers import rabbitmq, redis
from peers.system import ONE_THREAD

BENCH: Final = Path(__file__).parent.parent
PYTHON: Final = BENCH.parent / ".cache" / "bench-peers" / "bin" / "python"
_NEEDS: Final = {"celery": ("rabbitmq",), "dramatiq": ("rabbitmq", "redis"), "taskiq": ("rabbitmq", "redis")}


class MeasuringError(Exception):
    """A system could not be measured; the text says why."""


def run_peer(system: str, names: list[str], timeout_s: float) -> dict[str, float]:
    """Start a peer afresh, take the measures of these names, stop it.

    Raises:
        MeasuringError: It failed, or took longer than `timeout_s`.
        MissingServerError: A server that it needs is not installed.
    """
    if not PYTHON.exists():
        raise MeasuringError("the peers are not installed; do it with: tools/prepare.sh peers")
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(BENCH), "RAY_USAGE_STATS_ENABLED": "0"}
    with ExitStack() as stack:
        pids = []
        for need in _NEEDS.get(system, ()):
            variable, server = ("BENCH_AMQP_URL", rabbitmq) if need == "rabbitmq" else ("BENCH_REDIS_URL", redis)
            environment[variable], pid = stack.enter_context(server())
            pids.append(str(pid))
        environment["BENCH_SERVER_PIDS"] = " ".join(pids)
        # Ray's sockets lie in it: a longer name would make their paths too long.
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True))
        environment["TMPDIR"] = folder
        return _run_session(system, names, environment, Path(folder), timeout_s)


def _run_session(
    system: str, names: list[str], environment: dict[str, str], folder: Path, timeout_s: float
) -> dict[str, float]:
    output, errors = folder / "output", folder / "errors"
    with output.open("wb") as stdout, errors.open("wb") as stderr:
        command = [str(PYTHON), "-m", "peers.session", system, repr(time.time()), ",".join(names)]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=stdout, stderr=stderr)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise MeasuringError(f"no result in {timeout_s:.0f} s") from None
        finally:
            _end(process)
    if code != 0:
        last = errors.read_text(errors="replace").strip().splitlines()[-1:] or [f"exit code {code}"]
        raise MeasuringError(last[0])
    numbers: dict[str, float] = json.loads(output.read_text().strip().splitlines()[-1])
    return numbers


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a session: its own `stop` did not run, or it was interrupted."""
    if process.poll() is not None:
        return
    tree = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    for child in tree:
        with suppress(psutil.NoSuchProcess):  # Most end with their parent.
            child.kill()


def versions() -> dict[str, str]:
    """Return the versions of the packages in the peers' environment, by name; none where there is none."""
    if not PYTHON.exists():
        return {}
    names = ["ray", "distributed", "celery", "dramatiq", "taskiq", "taskiq-aio-pika", "qiskit", "numpy"]
    code = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {names!r}}}))"
    done = subprocess.run([str(PYTHON), "-c", code], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found
