"""What the service knows: instances, jobs, sessions, and what each costs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

FINAL: Final = frozenset({"Completed", "Cancelled", "Failed"})
CURRENT_VERSION: Final = "2026-04-15"


@dataclass(frozen=True, slots=True)
class Instance:
    """A service instance, and the API keys that may use it."""

    name: str = "open-instance"
    number: int = 1
    plan: str = "open"
    api_keys: frozenset[str] = frozenset({"ibm-key-of-the-broker"})
    limit_s: float = 600.0
    """Of QPU seconds: what it may consume before submissions are refused."""

    @property
    def crn(self) -> str:
        """Its cloud resource name."""
        return f"crn:v1:bluemix:public:quantum-computing:us-east:a/{self.number:032x}:{_uuid(self.number)}::"


def _uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


def moment(at: float | None) -> str | None:
    """Return a time as the API words it."""
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")


@dataclass(slots=True)
class UpstreamJob:
    """One job as the service has it."""

    job_id: str
    crn: str
    program: str
    backend: str
    device: str
    """What it runs on: the backend, or what a mock stands for."""
    body: bytes
    """What was posted, as it came."""
    api_version: str
    echo: bytes | None = None
    """Its result, for a job that is not to be simulated."""
    session_id: str = ""
    tags: list[str] = field(default_factory=list)
    private: bool = False
    cost_s: int = 0
    status: str = "Queued"
    reason: str = ""
    reason_code: int = 0
    created_at: float = field(default_factory=time.time)
    running_at: float | None = None
    finished_at: float | None = None
    charged_s: float = 0.0
    result: bytes | None = None
    results_read: int = 0
    deleted: bool = False

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self.status in FINAL

    def document(self, *, usage_status: str) -> dict[str, Any]:
        """Return it as GET /jobs/{id} does, without its params."""
        state: dict[str, Any] = {"status": self.status}
        if self.reason:
            state |= {"reason": self.reason, "reason_code": self.reason_code}
        return {
            "id": self.job_id,
            "backend": self.backend,
            "state": state,
            "status": self.status,
            "program": {"id": self.program},
            "created": moment(self.created_at),
            "ended": moment(self.finished_at),
            "cost": self.cost_s,
            "tags": self.tags,
            "private": self.private,
            "usage": self.usage(usage_status),
            "estimated_running_time_seconds": 2.0,
            **({"session_id": self.session_id} if self.session_id else {}),
        }

    def usage(self, status: str) -> dict[str, Any]:
        """Return its charge, zero while that is pending."""
        return {"qpu_charge_time_seconds": self.charged_s if status == "complete" else 0, "status": status}

    def metrics(self, *, usage_status: str) -> dict[str, Any]:
        """Return it as GET /jobs/{id}/metrics does."""
        return {
            "timestamps": {
                "created": moment(self.created_at),
                "running": moment(self.running_at),
                "finished": moment(self.finished_at),
            },
            "usage": self.usage(usage_status),
            "circuits_execution_time_ns": round(self.charged_s * 1e9),
            "caller": "fake-ibm",
            "qiskit_version": "",
        }


@dataclass(slots=True)
class UpstreamSession:
    """One session or batch as the service has it."""

    session_id: str
    crn: str
    mode: str
    backend: str
    max_ttl_s: int
    created_at: float = field(default_factory=time.time)
    activated_at: float | None = None
    closed_at: float | None = None
    accepting: bool = True

    def state(self, now: float) -> str:
        """Return open, active or closed."""
        if self.closed_at is not None or now > self.created_at + self.max_ttl_s:
            return "closed"
        return "open" if self.activated_at is None else "active"

    def held_s(self, now: float) -> float:
        """Return for how long a dedicated session has held its device: that is what is billed."""
        if self.mode != "dedicated" or self.activated_at is None:
            return 0.0
        latest = self.created_at + self.max_ttl_s
        return min(self.closed_at if self.closed_at is not None else now, latest) - self.activated_at

    def document(self, now: float) -> dict[str, Any]:
        """Return it as GET /sessions/{id} does."""
        state = self.state(now)
        stamps = (("open", self.created_at), ("active", self.activated_at), ("closed", self.closed_at))
        return {
            "id": self.session_id,
            "backend_name": self.backend,
            "instance": self.crn,
            "mode": self.mode,
            "state": state,
            "state_reason": "",
            "accepting_jobs": self.accepting and state != "closed",
            "interactive_ttl": 60,
            "max_ttl": self.max_ttl_s,
            "active_ttl": max(0, round(self.created_at + self.max_ttl_s - now)),
            "started_at": moment(self.created_at),
            "activated_at": moment(self.activated_at),
            "closed_at": moment(self.closed_at),
            "elapsed_time": round(self.held_s(now)),
            "timestamps": [{"status": name, "timestamp": moment(at)} for name, at in stamps if at is not None],
        }
