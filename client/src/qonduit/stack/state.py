"""What a stack says of itself in its data folder, for those who ask from outside."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from qonduit.settings import write_private
from qonduit.stack.processes import ProcessId

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(slots=True)
class ServiceState:
    """One process of the stack."""

    name: str
    pid: int = 0
    birth: str = ""
    state: str = "starting"
    """"starting", "ready", "waiting" (to be started again), "stopping" or "stopped"."""
    ports: dict[str, int] = field(default_factory=dict)
    restarts: int = 0
    since: float = field(default_factory=time.time)
    """When it got into this state, in seconds since the epoch."""

    @property
    def process(self) -> ProcessId:
        """Its process, which may be gone."""
        return ProcessId(self.pid, self.birth)


@dataclass(slots=True)
class StackState:
    """The whole stack."""

    supervisor_pid: int = 0
    supervisor_birth: str = ""
    phase: str = "stopped"
    """"starting", "up", "stopping" or "stopped"."""
    address: str = ""
    ports: dict[str, int] = field(default_factory=dict)
    """Ports by "service.purpose"; kept for the next start."""
    services: dict[str, ServiceState] = field(default_factory=dict)

    @property
    def supervisor(self) -> ProcessId:
        """Its supervisor, which may be gone."""
        return ProcessId(self.supervisor_pid, self.supervisor_birth)

    @property
    def rest_address(self) -> str:
        """Where clients of Qiskit Serverless connect; empty while that is not known, or switched off."""
        gateway = self.services.get("gateway")
        port = gateway.ports.get("rest_port", 0) if gateway else 0
        return f"http://127.0.0.1:{port}" if port else ""

    @property
    def running(self) -> bool:
        """Whether a supervisor looks after it now."""
        return self.supervisor.alive

    def left_behind(self) -> list[ServiceState]:
        """Return the services that live though their supervisor doesn't."""
        return [] if self.running else [service for service in self.services.values() if service.process.alive]


def read(path: Path) -> StackState:
    """Return the state in a file; a missing or damaged file is a stack that was never started."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        services = {name: ServiceState(**service) for name, service in content.pop("services").items()}
        return StackState(**content, services=services)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return StackState()


def write(path: Path, state: StackState) -> None:
    """Replace the file in one step; only its owner can read it."""
    write_private(path, json.dumps(asdict(state), indent=1) + "\n")
