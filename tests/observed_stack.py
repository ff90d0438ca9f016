"""A stack with everything that there is to observe, and a Prometheus that reads it as deploy/prometheus says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from dashboards.prometheus import Prometheus
from qonduit.stack.rabbitmq import RabbitNode, free_port
from stack_control import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parent.parent
RULES: Final = ROOT / "deploy" / "prometheus"
WORKERS: Final = {"worker-1": "worker", "worker-2": "worker-2"}
"""What compose.yaml calls them, and what `qonduit up` does."""
IBM_DEVICE: Final = "ibmq_manila"
_SETTINGS: Final = {
    # Two cpus a worker, so that something waits.
    "QONDUIT_WORKER_CPU": "2",
    "QONDUIT_QPU_BROKER_LOCAL_DEVICES": "true",
    "QONDUIT_QPU_BROKER_IBM_POLL_S": "0.2",
    "QONDUIT_QPU_BROKER_QUEUE_DELAY_S": "1",
}
_READY_S: Final = 240.0
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Observed:
    """The stack, and who observes it."""

    stack: Stack
    prometheus: Prometheus
    began_at: float

    def wait_for_reading(self, after: float) -> None:
        """Return once everybody was read, with success, after a moment."""
        # A busy machine misses a reading now and then: what was not read has no value until the next one.
        self.wait_for(f"count((up == 1) and (timestamp(up) > {after})) == count(up)")

    def wait_for(self, expr: str, timeout_s: float = _READY_S) -> None:
        """Return once an expression finds something."""
        deadline = time.monotonic() + timeout_s
        while not self.prometheus.now(expr):
            if time.monotonic() > deadline:
                raise AssertionError(f"Prometheus did not see in {timeout_s:.0f} s: {expr}")
            time.sleep(_POLL_S)


@contextmanager
def observed_stack(folder: Path) -> Iterator[Observed]:
    """Start RabbitMQ with its metrics, a stand-in for IBM, a stack of two workers, and Prometheus; stop them all."""
    with ExitStack() as running:
        metrics_port = free_port()
        node = RabbitNode(folder / "rabbitmq", metrics_port=metrics_port)
        ibm = running.enter_context(_process([sys.executable, "-m", "fake_ibm", "--queue", "0.3", "--run", "0.5"]))
        node.start()
        running.callback(node.stop)
        data = folder / "stack"
        data.mkdir()
        stack = Stack(data, ("--amqp-url", node.url, "--workers", "2"), _SETTINGS | _account(folder, ibm))
        stack.up()
        running.callback(stack.down)
        addresses = {name: stack.metrics_url(kind) for name, kind in _services().items()}
        addresses["rabbitmq"] = f"http://127.0.0.1:{metrics_port}"
        observed = Observed(stack, running.enter_context(_prometheus(folder, addresses)), time.time())
        observed.wait_for("min(up) == 1")
        yield replace(observed, began_at=time.time())


def _services() -> dict[str, str]:
    return {name: name for name in ("storage", "gateway", "scheduler")} | {"qpu-broker": "qpu_broker"} | WORKERS


def _account(folder: Path, ibm: subprocess.Popen[str]) -> dict[str, str]:
    """Return the settings for an account at the stand-in."""
    if ibm.stdout is None:
        raise AssertionError("the process has no output")
    told: dict[str, Any] = json.loads(ibm.stdout.readline())
    path = folder / "accounts.json"
    path.touch(0o600)
    account = {"name": "lab", "token": told["environment"]["QISKIT_IBM_TOKEN"], "url": told["url"]}
    path.write_text(json.dumps({"accounts": [account | {"submissions_a_minute": 1000}]}))
    hosts: dict[str, str] = told["hosts"]
    return hosts | {"QONDUIT_QPU_BROKER_IBM_ACCOUNTS_FILE": str(path)}


@contextmanager
def _process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **options)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=120)


@contextmanager
def _prometheus(folder: Path, addresses: dict[str, str]) -> Iterator[Prometheus]:
    config = folder / "prometheus.yaml"
    config.write_text(yaml.safe_dump(_config(addresses)))
    address = f"127.0.0.1:{free_port()}"
    command = [
        shutil.which("prometheus") or "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("w") as log, _process(command, stderr=log) as process:
        _until_ready(process, address, folder / "prometheus.log")
        yield Prometheus(f"http://{address}")


def _config(addresses: dict[str, str]) -> dict[str, Any]:
    """Return the configuration of deploy/prometheus for a stack on this machine, read every second."""
    config: dict[str, Any] = yaml.safe_load((RULES / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES / pattern) for pattern in config["rule_files"]]
    for job in config["scrape_configs"]:
        for group in job["static_configs"]:
            hosts = [target.partition(":")[0] for target in group["targets"]]
            group["targets"] = [addresses[host].removeprefix("http://").partition("/")[0] for host in hosts]
    return config


def _until_ready(process: subprocess.Popen[str], address: str, log: Path) -> None:
    deadline = time.monotonic() + _READY_S
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}/-/ready", timeout=30):
                return
        except (urllib.error.URLError, ConnectionError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"Prometheus is not ready:\n{log.read_text()}") from None
        time.sleep(_POLL_S)
