"""A whole stack, ruled the way a user rules it: by the command `qonduit`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from qonduit import ServerlessClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit import Job

QONDUIT = str(Path(sys.executable).with_name("qonduit"))
LOG_TIMEOUT_S = 60.0
CHARGE_TIMEOUT_S = 120.0
COMMAND_TIMEOUT_S = 400.0
"""Of any command: one that starts a stack, on a busy machine."""


LEAN = {
    "QONDUIT_WORKER_WARM": "false",
    "QONDUIT_WORKER_PRELOAD": '["qonduit.program.executor", "qonduit.program.runner", "qonduit.job"]',
}
"""Settings of a stack whose programs use no Qiskit: its workers load none, which takes them some seconds."""
TOLD = """\
import time
from qonduit.program.channel import agent

def is_told(name):  # The test says when to go on, by a file.
    return name in [file["name"] for file in agent().call("files_list")]

def told(name):
    while not is_told(name):
        time.sleep(0.02)
"""
"""With this in front, a program waits for the test where it has to."""


def tell(client: ServerlessClient, folder: Path, name: str) -> None:
    """Let a program go on that waits in told(name)."""
    with tarfile.open(folder / name, "w"):  # Only a tar may be uploaded.
        pass
    client.file_upload(str(folder / name))


@dataclass
class Stack:
    """A running stack: its data folder, and the command that rules it."""

    data_dir: Path
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        profile = str(self.data_dir / "profile.json")
        # A busy storage takes a log late; the job's end waits for it, so that tests find all that was printed.
        patient = {"QONDUIT_WORKER_LOG_PATIENCE_S": str(COMMAND_TIMEOUT_S)}
        self.environment = {**os.environ, "QONDUIT_PROFILE": profile, **patient, **self.environment}

    def qonduit(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the command `qonduit` as a user of this stack."""
        done = subprocess.run(
            [QONDUIT, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"qonduit {arguments} gave {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def up(self) -> None:
        """Start it in the background; returns once all services are healthy."""
        try:
            self.qonduit("up", "--detach", "--data-dir", str(self.data_dir), *self.options)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def down(self) -> None:
        """Stop it."""
        self.qonduit("down", "--data-dir", str(self.data_dir))

    def logs(self) -> str:
        """Return the end of every service's log."""
        folder = self.data_dir / "logs"
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted(folder.glob("*.log")))

    def logged(self, service: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for a line in a service's JSON log, which may be written after what it tells of; return it."""
        deadline = time.monotonic() + LOG_TIMEOUT_S
        while time.monotonic() < deadline:
            text = (self.data_dir / "logs" / f"{service}.log").read_text()
            complete = text[: text.rfind("\n") + 1].splitlines()
            found: list[dict[str, Any]] = [line for line in map(json.loads, complete) if wanted(line)]
            if found:
                return found[0]
            time.sleep(0.05)
        raise AssertionError(f"the wanted line is not in the log of {service}:\n{text[-3000:]}")

    def run_script(self, script: Path, *, through_exec: bool) -> subprocess.CompletedProcess[str]:
        """Run a user's script in its own folder, plainly or under `qonduit exec`."""
        command = [QONDUIT, "exec", script.name] if through_exec else [sys.executable, script.name]
        return subprocess.run(
            command, cwd=script.parent, env=self.environment, capture_output=True, text=True, check=False,
            timeout=COMMAND_TIMEOUT_S,
        )  # fmt: skip

    @property
    def profile(self) -> dict[str, Any]:
        """What `qonduit up` wrote for clients."""
        profile: dict[str, Any] = json.loads((self.data_dir / "profile.json").read_text())
        return profile

    def client(self, token: str | None = None) -> ServerlessClient:
        """Return a client of this stack."""
        return ServerlessClient(host=self.profile["address"], token=token or self.profile["token"])

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        """What the supervisor knows of each service: its pid and ports."""
        services: dict[str, dict[str, Any]] = json.loads((self.data_dir / "stack.json").read_text())["services"]
        return services

    def pid(self, service: str) -> int:
        """Return a service's present process id."""
        return int(self.services[service]["pid"])

    def until_restarted(self, service: str, pid: int) -> None:
        """Return once a service that had this pid serves again."""
        deadline = time.monotonic() + COMMAND_TIMEOUT_S
        while (known := self.services[service])["pid"] in {0, pid} or known["state"] != "ready":
            if time.monotonic() > deadline:
                raise AssertionError(f"{service} is not back: {known}\n{self.logs()}")
            time.sleep(0.05)

    def processes(self) -> list[psutil.Process]:
        """Return the supervisor and everything below it."""
        supervisor = psutil.Process(json.loads((self.data_dir / "stack.json").read_text())["supervisor_pid"])
        return [supervisor, *supervisor.children(recursive=True)]

    def metrics_url(self, service: str) -> str:
        """Return where a service's metrics are."""
        return f"http://127.0.0.1:{self.services[service]['ports']['metrics_port']}/metrics"


def until_logged(job: Job, *texts: str) -> None:
    """Return once the log holds all these texts, each as often as it is named."""
    seen = ""
    for piece in job.stream_logs():
        seen += piece
        if all(seen.count(text) >= times for text, times in Counter(texts).items()):
            return
    raise AssertionError(f"the job ended, and its log is {seen!r}")


def charged(job: Job, at_least: float = 1e-9) -> dict[str, float]:
    """Wait until a job was charged so many QPU seconds, which may be after its end; return them by stage."""
    deadline = time.monotonic() + CHARGE_TIMEOUT_S
    while (usage := job.usage()).total.qpu_s < at_least * 0.99:
        if time.monotonic() > deadline:
            raise AssertionError(f"{job.job_id} was charged {usage.total.qpu_s} QPU seconds, not {at_least}")
        time.sleep(0.05)
    return {stage.status: stage.qpu_s for stage in usage.stages}
