"""A deployment in containers, ruled the way an operator rules it: by deploy/compose.yaml."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from container_engine import CACHE
from qonduit import ServerlessClient
from qonduit.stack.rabbitmq import free_port

ROOT = Path(__file__).parents[1]
OWN_SERVICES = ("storage", "gateway", "scheduler", "qpu-broker", "worker-1", "worker-2")
SERVICES = ("rabbitmq", "postgres", *OWN_SERVICES)
FILES = ("compose.yaml", "compose.observability.yaml")
SECRET_VALUES = ("internal_key", "admin_token", "rabbitmq_password", "postgres_password")
BUILD_TIMEOUT_S = 1500
UP_TIMEOUT_S = 600


@dataclass
class Deployment:
    """Qonduit in containers: its folder of secrets, and the commands that rule it."""

    secrets: Path
    engine: dict[str, str]
    project: str = "qonduit-e2e"
    port: int = field(default_factory=free_port)
    rest_port: int = field(default_factory=free_port)

    @property
    def environment(self) -> dict[str, str]:
        """What compose is told; the images stand on what tools/make_base_images.sh made, if it did, or on BASE."""
        own = {
            "COMPOSE_PROJECT_NAME": self.project,
            "QONDUIT_VERSION": "e2e",
            "QONDUIT_PORT": str(self.port),
            "QONDUIT_REST_PORT": str(self.rest_port),
            "QONDUIT_SECRETS": str(self.secrets),
            "BUILD_NETWORK": "host",
            "BUILD_CERTIFICATES": os.environ.get("SSL_CERT_FILE", "/dev/null"),
            "BUILD_PIP_CONF": os.environ.get("PIP_CONFIG_FILE", "/dev/null"),
            "BUILD_UV_TOML": os.environ.get("UV_CONFIG_FILE", "/dev/null"),
        }
        made = {
            "BASE": "qonduit/base:debian-13",
            "RABBITMQ_IMAGE": "qonduit/rabbitmq:debian-13",
            "POSTGRES_IMAGE": "qonduit/postgres:debian-13",
            "PROMETHEUS_IMAGE": "qonduit/prometheus:debian-13",
        }
        images = made if (CACHE / "base.tar").exists() else {"BASE": "debian:13-slim"}
        return {**images, **os.environ, **self.engine, **own}

    def run(self, *command: str, timeout: float = 300, check: bool = True) -> str:
        """Run a command as this deployment's operator, and return what it printed."""
        done = subprocess.run(
            command, env=self.environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{command} gave {done.returncode}:\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}")
        return done.stdout + done.stderr

    def compose(self, *arguments: str, timeout: float = UP_TIMEOUT_S, check: bool = True) -> str:
        """Run docker compose on deploy/compose.yaml and what is beside it."""
        own = CACHE / "docker-compose"
        command = [str(own)] if own.exists() and shutil.which(str(own)) else ["docker", "compose"]
        files = [argument for name in FILES for argument in ("-f", f"deploy/{name}")]
        return self.run(*command, *files, *arguments, timeout=timeout, check=check)

    def build(self) -> None:
        """Build the images, those to stand on first."""
        if self.environment["BASE"].startswith("qonduit/"):
            self.run("tools/make_base_images.sh", "images", timeout=BUILD_TIMEOUT_S)
        self.compose("build", "--quiet", timeout=BUILD_TIMEOUT_S)

    def up(self, *services: str, options: tuple[str, ...] = ()) -> None:
        """Start services (those of compose.yaml if none is named) and return once they are healthy."""
        wait = ("--wait", "--wait-timeout", str(UP_TIMEOUT_S - 10))
        try:
            self.compose("up", "--detach", "--no-build", *wait, *options, *(services or SERVICES))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs(tail='60')}") from None

    def down(self) -> None:
        """Remove its containers, networks and volumes; images stay."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "10")

    def container(self, service: str) -> str:
        """Return the id of a service's container."""
        return self.compose("ps", "--all", "--quiet", service).strip()

    def inspect(self, service: str) -> dict[str, Any]:
        """Return what the engine knows of a service's container."""
        (found,) = json.loads(self.run("docker", "inspect", self.container(service)))
        return dict(found)

    def execute(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a service's container."""
        return subprocess.run(
            ["docker", "exec", self.container(service), *command],
            env=self.environment, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    def logs(self, *services: str, tail: str = "all") -> str:
        """Return what services logged."""
        return self.compose("logs", "--no-color", "--tail", tail, *services)

    def secret(self, name: str) -> str:
        """Return a secret."""
        return (self.secrets / name).read_text().strip()

    def client(self) -> ServerlessClient:
        """Return a client of this deployment, over TLS."""
        return ServerlessClient(host=f"https://127.0.0.1:{self.port}", token=self.secret("admin_token"))
