"""From what the QPU broker answers to the messages of the API."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp
from qonduit_api.v1 import qpu_pb2

from qonduit_gateway.api.convert import timestamp

if TYPE_CHECKING:
    from google.protobuf.message import Message

_MOST_REASON_CHARACTERS = 2000
"""A page of jobs must stay within what one answer carries."""


def backend(device: dict[str, Any]) -> qpu_pb2.Backend:
    """Return a device of the API."""
    status = device.get("status")
    return qpu_pb2.Backend(
        name=str(device.get("name", "")),
        qubits=int(device.get("qubits") or 0),
        status=str(status.get("name", "") if isinstance(status, dict) else status or ""),
        queue_length=int(device.get("queue_length") or 0),
        simulated=bool(device.get("qonduit_simulated", False)),
    )


def qpu_job(found: dict[str, Any]) -> qpu_pb2.QpuJob:
    """Return a QPU job of the API."""
    state, times = found.get("state") or {}, found.get("timestamps") or {}
    made = qpu_pb2.QpuJob(
        qpu_job_id=str(found.get("id", "")),
        job_id=str(found.get("qonduit_job_id", "")),
        backend=str(found.get("backend", "")),
        state=str(state.get("status") or found.get("status") or ""),
        program=str((found.get("program") or {}).get("id", "")),
        session_id=str(found.get("session_id") or ""),
        qpu_seconds=float(found.get("qpu_seconds") or 0.0),
        qpu_seconds_final=(found.get("usage") or {}).get("status") == "complete",
        reason=str(found.get("reason") or "")[:_MOST_REASON_CHARACTERS],
    )
    _set_times(made, create_time=times.get("created"), start_time=times.get("running"), end_time=times.get("finished"))
    return made


def session(found: dict[str, Any]) -> qpu_pb2.QpuSession:
    """Return a session or batch of the API."""
    made = qpu_pb2.QpuSession(
        session_id=str(found.get("id", "")),
        job_id=str(found.get("qonduit_job_id", "")),
        backend=str(found.get("backend_name") or ""),
        mode=str(found.get("mode", "")),
        state=str(found.get("state", "")),
        accepting_jobs=bool(found.get("accepting_jobs", False)),
        elapsed_seconds=float(found.get("elapsed_time") or 0.0),
        unfinished_jobs=int(found.get("qonduit_unfinished") or 0),
    )
    _set_times(
        made,
        create_time=found.get("started_at"),
        activate_time=found.get("activated_at"),
        close_time=found.get("closed_at"),
    )
    return made


def instance(found: dict[str, Any], *, whole: bool) -> qpu_pb2.QpuInstance:
    """Return how an instance is doing; not `whole`, it does not tell whose account it is."""
    until = found.get("until")
    return qpu_pb2.QpuInstance(
        name=str(found.get("name", "")),
        instance=str(found.get("instance", "")) if whole else "",
        state=str(found.get("state", "")),
        text=str(found.get("text", "")),
        until=None if until is None else timestamp(until),
        in_flight=int(found.get("in_flight") or 0),
    )


def queue(found: dict[str, Any]) -> qpu_pb2.QpuQueue:
    """Return how many jobs wait for a device."""
    return qpu_pb2.QpuQueue(
        backend=str(found.get("name", "")),
        status=str(found.get("status", "")),
        queue_length=int(found.get("queue_length") or 0),
    )


def _set_times(message: Message, **times: object) -> None:
    for field, text in times.items():
        at = _timestamp(text)
        if at is not None:
            getattr(message, field).CopyFrom(at)


def _timestamp(text: object) -> Timestamp | None:
    if not isinstance(text, str):
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    made = Timestamp()
    made.FromDatetime((at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC))
    return made
