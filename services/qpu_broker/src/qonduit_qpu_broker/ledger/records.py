"""Rows of the ledger as values."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from qonduit_service_kit.messages import QpuState

if TYPE_CHECKING:
    import sqlite3

    from qonduit_service_kit.messages import Address


@dataclass(frozen=True, slots=True)
class Budget:
    """The QPU seconds that a job, and its user, may use; None where there is no limit."""

    job_s: float | None = None
    user_s: float | None = None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A QPU job, without the bytes of its body and result."""

    qpu_job_id: str
    job_id: str
    attempt: int
    user: str
    call_number: int
    digest: str
    program: str
    backend: str
    session_id: str
    tags: tuple[str, ...]
    private: bool
    cost_s: int
    api_version: str
    body_digest: str
    """Set when the body is in storage, else it is in the row."""
    state: QpuState
    created_at: float
    running_at: float | None
    finished_at: float | None
    reason: str
    reason_code: int
    result_digest: str
    qpu_s: float | None
    cancel_request_id: str
    delete_request_id: str
    job_budget_s: float | None
    user_budget_s: float | None
    simulated: bool
    """Whether it was submitted to a simulated device."""
    cancelling: str
    """Why it is to be cancelled, if it is."""
    traceparent: str
    """Where in a trace it was submitted."""

    @property
    def budget(self) -> Budget:
        """What it and its user may use."""
        return Budget(self.job_budget_s, self.user_budget_s)


@dataclass(frozen=True, slots=True)
class NewJob:
    """A QPU job to be written."""

    job_id: str
    attempt: int
    user: str
    caller: str
    call_number: int
    digest: str
    reply_to: Address
    program: str
    backend: str
    session_id: str
    tags: tuple[str, ...]
    private: bool
    cost_s: int
    api_version: str
    body: bytes | None
    body_digest: str
    budget: Budget = Budget()
    simulated: bool = True
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session or batch."""

    session_id: str
    job_id: str
    user: str
    mode: str
    backend: str
    instance: str
    max_ttl_s: int
    accepting: bool
    created_at: float
    activated_at: float | None
    closed_at: float | None


JOB_COLUMNS = ", ".join(field.name for field in fields(JobRecord))
SESSION_COLUMNS = ", ".join(field.name for field in fields(SessionRecord))


def job_of(row: sqlite3.Row) -> JobRecord:
    """Return a row of qpu_jobs as a record."""
    values: dict[str, Any] = {field.name: row[field.name] for field in fields(JobRecord)}
    values["tags"] = tuple(json.loads(values["tags"]))
    values["private"] = bool(values["private"])
    values["simulated"] = bool(values["simulated"])
    values["state"] = QpuState(values["state"])
    return JobRecord(**values)


def session_of(row: sqlite3.Row) -> SessionRecord:
    """Return a row of qpu_sessions as a record."""
    values: dict[str, Any] = {field.name: row[field.name] for field in fields(SessionRecord)}
    values["accepting"] = bool(values["accepting"])
    return SessionRecord(**values)
