"""A stack of stand-ins: real processes and real signals, but no services and no RabbitMQ."""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from qonduit.stack.commands import stop
from qonduit.stack.layout import layout_of
from qonduit.stack.processes import ProcessId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SERVICES = ("storage", "gateway", "scheduler", "qpu_broker", "worker")
STAND_IN = """\
import json, os, pathlib, signal, socket, sys
name = __file__.split(os.sep)[-2].removeprefix("qonduit_")
prefix = f"QONDUIT_{name.upper()}_"
if "few" in os.environ.get(prefix + "CPU", ""):
    print("setting QONDUIT_WORKER_CPU: no number", file=sys.stderr)
    sys.exit(2)
if os.environ.get("SLOW") == name:
    signal.pause()
if os.environ.get("BROKEN") == name:
    sys.exit("the stand-in is broken")
print(f"2026-01-01T00:00:00Z WARNING {name}: the sandbox is of sand", flush=True)
listening = {}
for variable, key in (("LISTEN_PORT", "port"), ("METRICS_PORT", "metrics_port")):
    if prefix + variable in os.environ:
        listening[key] = socket.create_server(("127.0.0.1", int(os.environ[prefix + variable])))
ready = pathlib.Path(os.environ[prefix + "READY_FILE"])
part = ready.with_suffix(".part")
part.write_text(json.dumps({key: server.getsockname()[1] for key, server in listening.items()}))
settings = {key: value for key, value in os.environ.items() if key.startswith("QONDUIT_")}
ready.with_suffix(".env").write_text(json.dumps(settings))
if os.environ.get("STUBBORN") == name:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
part.replace(ready)
while os.environ.get("STUBBORN") == name:
    ready.with_suffix(".told").write_text(str(signal.sigwaitinfo({signal.SIGTERM}).si_pid))
while True:
    signal.pause()
"""


def qonduit(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qonduit.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


class Stack:
    def __init__(self, folder: Path, environment: dict[str, str], amqp_url: str) -> None:
        self.folder = folder
        self.environment = environment
        self.amqp_url = amqp_url

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return qonduit({**self.environment, **environment}, *arguments, "--data-dir", str(self.folder))

    def up(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("up", "--detach", "--amqp-url", self.amqp_url, *options, **environment)

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.folder / "stack.json").read_text())
        return state

    def process(self, name: str) -> ProcessId:
        service = self.state["services"][name]
        return ProcessId(service["pid"], service["birth"])

    @property
    def supervisor(self) -> ProcessId:
        return ProcessId(self.state["supervisor_pid"], self.state["supervisor_birth"])

    def await_told(self, by: int) -> None:
        """Wait until a process told a stubborn service to end, which it does not."""
        deadline = time.monotonic() + 60
        while str(by) not in [file.read_text() for file in self.folder.rglob("*.told")]:
            assert time.monotonic() < deadline, "nobody told it"
            time.sleep(0.02)  # A file tells nobody that it came.

    def await_state(self, condition: Callable[[dict[str, Any]], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition(self.state):
            assert time.monotonic() < deadline, self.state
            time.sleep(0.02)  # A file tells nobody that it changed.


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    packages = [tmp_path / "stand-ins" / f"qonduit_{name}" for name in (*SERVICES, "service_kit")]
    for package in packages:
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
    for package in packages[:-1]:  # The kit is empty: stand-ins need none of it, and to import it takes time.
        (package / "__main__.py").write_text(STAND_IN)
    return {**os.environ, "PYTHONPATH": str(tmp_path / "stand-ins")}


class Greeter(socketserver.BaseRequestHandler):
    """As much of RabbitMQ as the supervisor asks for."""

    def handle(self) -> None:
        if self.request.recv(8).startswith(b"AMQP"):
            self.request.sendall(b"\x01")


@pytest.fixture
def amqp_url() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greeter) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"amqp://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def stack(tmp_path: Path, environment: dict[str, str], amqp_url: str) -> Iterator[Stack]:
    running = Stack(tmp_path / "data", environment, amqp_url)
    yield running
    stop(layout_of(running.folder))  # As `qonduit down` does, less the process that would first import it.
