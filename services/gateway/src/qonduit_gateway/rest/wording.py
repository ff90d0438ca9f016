"""From the messages of the API to the objects and words of Qiskit Serverless, and back. Pure."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from qonduit_api.v1 import types_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.timestamp_pb2 import Timestamp
    from qonduit_api.v1 import functions_pb2, jobs_pb2

_STATUS = {
    "QUEUED": "QUEUED",
    "INITIALIZING": "PENDING",
    "RUNNING": "RUNNING",
    "CANCELING": "STOPPING",
    "DONE": "SUCCEEDED",
    "ERROR": "FAILED",
    "CANCELED": "STOPPED",
}
_STATES = {
    word: types_pb2.JobState.Value(f"JOB_STATE_{ours}") for ours, theirs in _STATUS.items() for word in (ours, theirs)
}
"""By both words: clients before 0.26 send the one that they show."""
_SUB_STATUS = {
    "MAPPING": "MAPPING",
    "OPTIMIZING_FOR_HARDWARE": "OPTIMIZING_HARDWARE",
    "WAITING_FOR_QPU": "WAITING_QPU",
    "EXECUTING_QPU": "EXECUTING_QPU",
    "POST_PROCESSING": "POST_PROCESSING",
}
_FUNCTIONS = uuid.UUID("6f1f3ed1-6a0c-4f0e-9b6e-1d6ee1a3f0c5")
STATUSES = tuple(_STATUS.values())
SUB_STATUSES = tuple(_SUB_STATUS.values())
OVER = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})


def states_of(status: str) -> list[types_pb2.JobState.ValueType] | None:
    """Return the states that a status to filter by stands for; None for a word that no job ever has."""
    return [_STATES[status]] if status in _STATES else None


def status(job: jobs_pb2.Job) -> tuple[str, str | None]:
    """Return a job's status and sub-status."""
    return status_of_text(job.status)


def status_of_text(words: str) -> tuple[str, str | None]:
    """Return the status and sub-status for "QUEUED", "RUNNING: MAPPING", ...; a word not known here stays as it is."""
    state, _, stage = words.partition(": ")
    return _STATUS.get(state, state), _SUB_STATUS.get(stage, stage) or None


def full_name(provider: str, title: str) -> str:
    """Return a function's name as the API has it."""
    return f"{provider}/{title}" if provider else title


def function_id(owner: str, title: str, provider: str = "") -> str:
    """Return a function's id: it has none of its own, being named by its title, and this one never changes."""
    return str(uuid.uuid5(_FUNCTIONS, f"/{provider}/{title}" if provider else f"{owner}/{title}"))


def job(message: jobs_pb2.Job) -> dict[str, Any]:
    """Return a job."""
    status_, sub_status = status(message)
    return {
        "id": message.job_id,
        "status": status_,
        "sub_status": sub_status,
        "program": {
            "id": function_id(message.owner, message.function_title, message.provider),
            "title": message.function_title,
            "provider": message.provider or None,
        },
        "created": iso(message.create_time),
        "fleet_id": None,
        "compute_profile": None,
        "business_model": None,
    }


def accepted(message: jobs_pb2.Job) -> dict[str, Any]:
    """Return a job that was just accepted."""
    made = job(message)
    return made | {"program": made["program"]["id"], "result": None}


def function(message: functions_pb2.Function) -> dict[str, Any]:
    """Return a function, as its newest version is; of what it consists is told to its own people alone."""
    spec = message.spec
    return {
        "id": function_id(message.owner, spec.title, message.provider),
        "title": spec.title,
        "entrypoint": spec.entrypoint or None,
        "artifact": message.artifact_digest or None,
        "dependencies": list(spec.dependencies),
        "env_vars": dict(spec.env_vars),
        "image": None,
        "provider": message.provider or None,
        "description": spec.description or None,
        "documentation_url": None,
        "type": "GENERIC",
        "version": spec.version_label or None,
        "runner": "ray",  # The only word that all versions of the client know for programs in Python.
        "arguments_schema": spec.arguments_schema or "{}",
        "sizes": {},
        "default_size": None,
    }


def uploaded(message: functions_pb2.Function) -> dict[str, Any]:
    """Return a function that was just uploaded: without an id."""
    return {name: value for name, value in function(message).items() if name != "id"}


def events(message: jobs_pb2.Job, entries: Iterable[jobs_pb2.TimelineEntry]) -> list[dict[str, Any]]:
    """Return a job's events, newest first: its changes, the errors that its program told, and why it failed if it did.

    Where the program ended with an error that it told, that is why; one that it had told before is not told twice.
    """
    made: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []
    ended_with = False
    status_: str | None = None
    for entry in entries:
        after, sub_status = status_of_text(entry.status)
        at = iso(entry.time)
        if after != status_:
            status_ = after
            made.append(_event("STATUS_CHANGE", "SCHEDULER", "UPDATE_JOB_STATUS", at, {"status": after}))
        if sub_status is not None:
            made.append(_event("SUB_STATUS_CHANGE", "API", "SET_SUB_STATUS", at, {"sub_status": sub_status}))
        ended_with = entry.HasField("error")
        error = _told(entry.error) if ended_with else None
        if error is not None and not (after in OVER and error in told):
            told.append(error)
            made.append(_event("ERROR", "API", "SEND_ERROR", at, error))
    if message.state == types_pb2.JOB_STATE_ERROR and not ended_with:
        made.append(_event("ERROR", "SCHEDULER", "SEND_ERROR", iso(message.end_time), _error(message)))
    return made[::-1]


def _event(kind: str, origin: str, context: str, created: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"event_type": kind, "origin": origin, "context": context, "created": created, "data": data}


def _told(error: jobs_pb2.ToldError) -> dict[str, Any]:
    return {
        "code": error.code,
        "message": error.message,
        "exception": error.exception,
        "args": json.loads(error.args_json) if error.args_json else None,
    }


def _error(message: jobs_pb2.Job) -> dict[str, Any]:
    code = types_pb2.Reason.Name(message.reason).removeprefix("REASON_")
    last = next((line for line in reversed(message.error_text.splitlines()) if line.strip()), "")
    return {"code": code, "message": message.error_text.strip(), "exception": last.strip(), "args": None}


def iso(time: Timestamp) -> str:
    """Return a time as JSON has it."""
    micros = time.nanos // 1000
    return f"{time.ToDatetime():%Y-%m-%dT%H:%M:%S}.{micros:06d}Z"
