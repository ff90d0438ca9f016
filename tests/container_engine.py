"""A Docker Engine for tests: the one that answers, or a private one that ends with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHE = Path(__file__).parents[1] / ".cache" / "containers"
START_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 120.0


def engine_environment(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the environment in which `docker` reaches an engine; skip the test where there can be none."""
    reason = "no Docker Engine answers, and only root may start one (apt-get install docker.io)"
    if answers(dict(os.environ)):
        yield {}
        return
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    engine = PrivateEngine(folder)
    engine.start()
    try:
        yield engine.environment
    finally:
        engine.stop()


def answers(environment: dict[str, str]) -> bool:
    """Whether an engine answers in this environment."""
    if not shutil.which("docker"):
        return False
    return subprocess.run(["docker", "info"], env=environment, capture_output=True, check=False).returncode == 0


class PrivateEngine:
    """A Docker daemon of its own: images stay in .cache for the next run, all else is in a temporary folder.

    It lives in mount and pid namespaces of its own that end with this process, however that ends, and it changes no
    firewall rule: ports reach containers through Docker's own proxy.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "dockerd.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.environment = {"DOCKER_HOST": f"unix://{folder}/docker.sock"}

    def start(self) -> None:
        """Return once it answers."""
        (CACHE / "engine").mkdir(parents=True, exist_ok=True)
        command = [
            *("setpriv", "--pdeathsig", "KILL"),
            *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc", "--kill-child"),
            *("dockerd", "--host", self.environment["DOCKER_HOST"], "--pidfile", str(self._folder / "docker.pid")),
            *("--data-root", str(CACHE / "engine"), "--exec-root", str(self._folder / "exec")),
            *("--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"),
            # systemd could not place processes of another pid namespace.
            *("--exec-opt", "native.cgroupdriver=cgroupfs"),
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers({**os.environ, **self.environment}):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"dockerd does not start:\n{self._log.read_text()[-3000:]}")
            time.sleep(0.2)

    def stop(self) -> None:
        """End it with all its containers."""
        process, self._process = self._process, None
        if process is None:
            return
        for daemon in psutil.Process(process.pid).children():
            daemon.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
