"""A whole stack, ruled the way a user rules it: by the command `qonduit`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from qonduit import ServerlessClient

if TYPE_CHECKING:
    from qonduit import Job

QONDUIT = str(Path(sys.executable).with_name("qonduit"))
CHARGE_TIMEOUT_S = 30.0


@dataclass
class Stack:
    """A running stack: its data folder, and the command that rules it."""

    data_dir: Path
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        profile = str(self.data_dir / "profile.json")
        self.environment = {**os.environ, "QONDUIT_PROFILE": profile, **self.environment}

    def qonduit(self, *arguments: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run the command `qonduit` as a user of this stack."""
        done = subprocess.run(
            [QONDUIT, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
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

    def run_script(self, script: Path, *, through_exec: bool) -> subprocess.CompletedProcess[str]:
        """Run a user's script in its own folder, plainly or under `qonduit exec`."""
        command = [QONDUIT, "exec", script.name] if through_exec else [sys.executable, script.name]
        return subprocess.run(
            command, cwd=script.parent, env=self.environment, capture_output=True, text=True, check=False, timeout=110
        )

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

    def processes(self) -> list[psutil.Process]:
        """Return the supervisor and everything below it."""
        supervisor = psutil.Process(json.loads((self.data_dir / "stack.json").read_text())["supervisor_pid"])
        return [supervisor, *supervisor.children(recursive=True)]

    def metrics_url(self, service: str) -> str:
        """Return where a service's metrics are."""
        return f"http://127.0.0.1:{self.services[service]['ports']['metrics_port']}/metrics"


def charged(job: Job, at_least: float = 1e-9) -> dict[str, float]:
    """Wait until a job was charged so many QPU seconds, which may be after its end; return them by stage."""
    deadline = time.monotonic() + CHARGE_TIMEOUT_S
    while (usage := job.usage()).total.qpu_s < at_least * 0.99:
        if time.monotonic() > deadline:
            raise AssertionError(f"{job.job_id} was charged {usage.total.qpu_s} QPU seconds, not {at_least}")
        time.sleep(0.05)
    return {stage.status: stage.qpu_s for stage in usage.stages}
