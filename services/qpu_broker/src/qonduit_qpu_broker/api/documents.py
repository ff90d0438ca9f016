"""Jobs, sessions and devices as the runtime API words them, by the version that a client asks for."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from qonduit_service_kit.messages import QpuState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from qonduit_qpu_broker.ledger.records import JobRecord, SessionRecord
    from qonduit_qpu_broker.ledger.sessions import SessionTimes
    from qonduit_qpu_broker.queueing import Place
    from qonduit_qpu_broker.upstream import Condition, Device

DETAILED_DEVICES_SINCE = "2025-01-01"
"""Before it, a list of devices is a list of names."""
CHARGE_TIME_SINCE = "2026-03-15"
"""Before it, usage is in quantum seconds."""
INTERACTIVE_TTL_S = 60
_SHOWN = 40
RAN_TOO_LONG = 1305
"""With it, the client takes a cancelled job for one that exceeded its longest execution time."""


def moment(at: float | None) -> str | None:
    """Return a time as ISO 8601 in UTC."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _is_before(api_version: str, since: str) -> bool:
    """Whether a client asks for a version from before a change; dates compare as text."""
    return bool(api_version) and api_version < since


def usage_document(job: JobRecord, api_version: str) -> dict[str, Any]:
    """Return what a job cost."""
    seconds = job.qpu_s or 0.0
    if _is_before(api_version, CHARGE_TIME_SINCE):
        return {"seconds": seconds, "quantum_seconds": seconds}
    return {"qpu_charge_time_seconds": seconds, "status": "pending" if job.qpu_s is None else "complete"}


def job_document(job: JobRecord, api_version: str, *, params: Any = None) -> dict[str, Any]:
    """Return a job; with its params if given."""
    state: dict[str, Any] = {"status": job.state.value}
    if job.reason and (job.state == QpuState.FAILED or job.reason_code == RAN_TOO_LONG):
        state |= {"reason": job.reason, "reason_code": job.reason_code}
    document: dict[str, Any] = {
        "id": job.qpu_job_id,
        "backend": job.backend,
        "state": state,
        "status": job.state.value,
        "program": {"id": job.program},
        "created": moment(job.created_at),
        "ended": moment(job.finished_at),
        "cost": job.cost_s,
        "tags": list(job.tags),
        "private": job.private,
        "usage": usage_document(job, api_version),
        "estimated_running_time_seconds": None,
    }
    if job.session_id:
        document["session_id"] = job.session_id
    if params is not None:
        document["params"] = params
    return document


def operator_document(job: JobRecord, api_version: str, place_of: Callable[[str, float], Place]) -> dict[str, Any]:
    """Return a job as the gateway needs it: with the job it belongs to, its times, and where it stands if it waits."""
    place = place_of(job.backend, job.created_at) if job.state == QpuState.QUEUED else None
    return {
        **job_document(job, api_version),
        "qonduit_job_id": job.job_id,
        "timestamps": _timestamps(job),
        "qpu_seconds": job.qpu_s,
        "reason": job.reason,
        "ahead": None if place is None else place.ahead,
        "estimated_wait_seconds": None if place is None else place.wait_s,
    }


def metrics_document(job: JobRecord, api_version: str) -> dict[str, Any]:
    """Return a job's metrics."""
    document: dict[str, Any] = {
        "timestamps": _timestamps(job),
        "usage": usage_document(job, api_version),
        "circuits_execution_time_ns": None if job.qpu_s is None else round(job.qpu_s * 1e9),
        "caller": "qonduit",
    }
    if _is_before(api_version, CHARGE_TIME_SINCE):
        document["bss"] = {"seconds": job.qpu_s or 0.0}
    return document


def _timestamps(job: JobRecord) -> dict[str, str | None]:
    return {"created": moment(job.created_at), "running": moment(job.running_at), "finished": moment(job.finished_at)}


def session_state(session: SessionRecord, now: float) -> str:
    """Return open, active or closed."""
    if session.closed_at is not None or now > session.created_at + session.max_ttl_s:
        return "closed"
    return "open" if session.activated_at is None else "active"


def session_document(session: SessionRecord, times: SessionTimes) -> dict[str, Any]:
    """Return a session or batch."""
    now = time.time()
    state = session_state(session, now)
    stamps = [("open", session.created_at), ("active", session.activated_at), ("closed", session.closed_at)]
    return {
        "id": session.session_id,
        "backend_name": session.backend,
        "instance": session.instance,
        "mode": session.mode,
        "state": state,
        "state_reason": "",
        "accepting_jobs": session.accepting and state != "closed",
        "interactive_ttl": INTERACTIVE_TTL_S,
        "max_ttl": session.max_ttl_s,
        "active_ttl": max(0, round(session.created_at + session.max_ttl_s - now)),
        "started_at": moment(session.created_at),
        "activated_at": moment(session.activated_at),
        "closed_at": moment(session.closed_at),
        "last_job_started": moment(times.last_started),
        "last_job_completed": moment(times.last_finished),
        "elapsed_time": round(_session_seconds(session, times, now)),
        "timestamps": [{"status": name, "timestamp": moment(at)} for name, at in stamps if at is not None],
    }


def operator_session_document(session: SessionRecord, times: SessionTimes) -> dict[str, Any]:
    """Return a session or batch as the gateway needs it: with the job it belongs to, and what is left in it."""
    return {
        **session_document(session, times),
        "qonduit_job_id": session.job_id,
        "qonduit_unfinished": times.unfinished,
    }


def overview_document(conditions: Iterable[Condition], devices: Iterable[tuple[Device, int]]) -> dict[str, Any]:
    """Return how instances are doing and how long the queues are, for people."""
    return {
        "instances": [asdict(condition) for condition in conditions],
        "devices": [
            {"name": device.name, "queue_length": waiting, "status": "online" if device.online else "offline"}
            for device, waiting in devices
        ],
    }


def _session_seconds(session: SessionRecord, times: SessionTimes, now: float) -> float:
    """Return a batch's charged seconds, or how long a dedicated session held its device."""
    if times.held_s is not None and session.closed_at is not None:
        return times.held_s
    if session.mode == "batch" or times.first_started is None:
        return times.charged_s
    if times.unfinished:
        return now - times.first_started
    return max(session.closed_at or 0.0, times.last_finished or 0.0) - times.first_started


def devices_document(devices: list[tuple[Device, int]], api_version: str) -> dict[str, Any]:
    """Return a list of devices with how many jobs wait for each."""
    if _is_before(api_version, DETAILED_DEVICES_SINCE):
        return {"devices": [device.name for device, _ in devices if not device.mock]}
    return {
        "devices": [
            {
                "name": device.name,
                "status": {"name": "online" if device.online else "offline", "reason": ""},
                "qubits": device.qubits,
                "queue_length": waiting + device.waiting,
                "is_simulator": False,
                "processor_type": {"family": device.family, "revision": device.revision},
                "basis_gates": list(device.basis_gates),
                "qonduit_simulated": device.simulated,
                **({"class": "mock"} if device.mock else {}),
            }
            for device, waiting in devices
        ]
    }


def status_document(device: Device, waiting: int) -> dict[str, Any]:
    """Return a device's status."""
    return {
        "name": device.name,
        "state": device.online,
        "status": "active" if device.online else "offline",
        "message": "",
        "length_queue": waiting + device.waiting,
        "backend_version": device.version,
    }


def parse_body(body: bytes) -> dict[str, Any]:
    """Return a posted object, top level only; ValueError if it is none.

    What is inside stays as it came: nothing here decodes circuits or arrays. A name given twice is refused, because a
    provider may read the other one than we: another backend, another program's session.
    """
    try:
        document = json.loads(body, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("a JSON object is expected")  # noqa: TRY004 -- one error for all that is wrong with it.
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"{twice[:_SHOWN]!r} is given twice")
    return found
