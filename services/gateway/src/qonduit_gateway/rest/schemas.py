"""The bodies that come and go, as JSON Schemas: what OpenAPI shows, and what answers are held to in tests."""

from __future__ import annotations

from typing import Any, Final

from qonduit_gateway.rest.wording import STATUSES, SUB_STATUSES


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """Return the schema of an object that has these members and no others."""
    members = {"required": list(required), "properties": {**required, **optional}}
    return {"type": "object", **members, "additionalProperties": False}


def _request(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """Return the schema of an object whose other members are not looked at."""
    return {**_object(required, **optional), "additionalProperties": True}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _said(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {**schema, "description": description}


def ref(name: str) -> dict[str, Any]:
    """Return what stands for a schema."""
    return {"$ref": f"#/components/schemas/{name}"}


_TEXT: Final[dict[str, Any]] = {"type": "string"}
_TEXT_OR_NULL: Final[dict[str, Any]] = {"type": ["string", "null"]}
_NULL: Final[dict[str, Any]] = {"type": "null", "description": "Nothing here has one."}
_ID: Final[dict[str, Any]] = {"type": "string", "format": "uuid"}
_TIME: Final[dict[str, Any]] = {"type": "string", "format": "date-time"}
_COUNT: Final[dict[str, Any]] = {"type": "integer", "minimum": 0}
_FILE: Final[dict[str, Any]] = {"type": "string", "format": "binary"}
_STATUS: Final[dict[str, Any]] = {"enum": list(STATUSES)}
_ENCODED: Final = "JSON text, in the encoding of qiskit-ibm-runtime."

_JOB_BESIDE: Final[dict[str, Any]] = {
    "id": _ID,
    "status": _STATUS,
    "sub_status": {"enum": [*SUB_STATUSES, None]},
    "created": _TIME,
    "fleet_id": _NULL,
    "compute_profile": _NULL,
    "business_model": _NULL,
}
_PROGRAM: Final[dict[str, Any]] = {
    "title": _TEXT,
    "entrypoint": _said(_TEXT_OR_NULL, "Null to those who may not see what a provider's function consists of."),
    "artifact": _said(_TEXT_OR_NULL, "The tar's sha256; null as the entrypoint is."),
    "dependencies": _list(_TEXT),
    "env_vars": {"type": "object", "additionalProperties": _TEXT},
    "image": _NULL,
    "provider": _said(_TEXT_OR_NULL, "Null for an own function."),
    "description": _TEXT_OR_NULL,
    "documentation_url": _NULL,
    "type": {"const": "GENERIC"},
    "version": _said(_TEXT_OR_NULL, "The author's own label."),
    "runner": {"const": "ray"},
    "arguments_schema": _said(_TEXT, "A JSON Schema as JSON text; {} for none."),
    "sizes": _object({}),
    "default_size": _NULL,
}
_NAMED: Final[dict[str, Any]] = {"title": _said(_TEXT, "Title, or provider/title; title@version for a version.")}
_PROVIDER: Final[dict[str, Any]] = {"provider": _said(_TEXT_OR_NULL, "Whose function it is; left out for an own one.")}

SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "Job": _object(
        {**_JOB_BESIDE, "program": _object({"id": _ID, "title": _TEXT, "provider": _TEXT_OR_NULL})},
        result=_said(_TEXT_OR_NULL, f"Only with its result. {_ENCODED}"),
    ),
    "AcceptedJob": _object({**_JOB_BESIDE, "program": _ID, "result": _NULL}),
    "Jobs": _list(ref("Job")),
    "JobPage": _object(
        {"count": _COUNT, "next": _TEXT_OR_NULL, "previous": _TEXT_OR_NULL, "results": _list(ref("Job"))}
    ),
    "Program": _object({"id": _ID, **_PROGRAM}),
    "UploadedProgram": _object(_PROGRAM),
    "Programs": _list(ref("Program")),
    "Valid": _object({"valid": {"const": True}}),
    "Packages": _list(_TEXT),
    "Result": _object({"result": _said(_TEXT, _ENCODED)}),
    "Logs": _object({"logs": _TEXT}),
    "Events": _list(
        _object(
            {
                "event_type": {"enum": ["STATUS_CHANGE", "SUB_STATUS_CHANGE", "ERROR"]},
                "origin": {"enum": ["API", "SCHEDULER"]},
                "context": {"enum": ["UPDATE_JOB_STATUS", "SET_SUB_STATUS", "SEND_ERROR"]},
                "created": _TIME,
                "data": {
                    "anyOf": [
                        _object({"status": _STATUS}),
                        _object({"sub_status": {"enum": list(SUB_STATUSES)}}),
                        _object(
                            {"code": _TEXT, "message": _TEXT, "exception": _TEXT, "args": {"type": ["object", "null"]}}
                        ),
                    ]
                },
            }
        )
    ),
    "RuntimeJobs": _object({"runtime_jobs": _list(_object({"runtime_job": _TEXT, "runtime_session": _TEXT_OR_NULL}))}),
    "FileNames": _object({"results": _list(_TEXT)}),
    "Message": _object({"message": _TEXT}),
    "Refusal": _object({"message": _TEXT}, path=_said(_list(_TEXT), "Where in the arguments it is.")),
    "NotLetIn": _object({"detail": _TEXT}),
    "Run": _request(
        {**_NAMED, "arguments": _said(_TEXT, f"An object as {_ENCODED}")},
        **_PROVIDER,
        function_size=_said(_TEXT_OR_NULL, "Refused: functions have no sizes."),
        config=_said({"type": ["object", "null"]}, "Taken, and not needed."),
    ),
    "Arguments": _request({**_NAMED, "arguments": _said(_TEXT, f"An object as {_ENCODED}")}, **_PROVIDER),
    "Stop": _request({}, service=_said(_TEXT_OR_NULL, "Never read: QPU jobs end with the job.")),
    "UploadForm": _request(
        {"title": _TEXT, "entrypoint": _TEXT, "artifact": _said(_FILE, "The working directory, a tar.")},
        **_PROVIDER,
        dependencies=_said(_TEXT, "A list of requirements, or of {name: version}, as JSON text."),
        env_vars=_said(_TEXT, "An object of names and values as JSON text."),
        description=_TEXT,
        version=_TEXT,
        arguments_schema=_said(_TEXT, "A JSON Schema as JSON text."),
    ),
    "FileForm": _request({"file": _said(_FILE, "A tar or h5, by its name.")}),
}
FORMS: Final = frozenset({"UploadForm", "FileForm"})
"""What travels as multipart/form-data."""
ASKED: Final[dict[str, dict[str, Any]]] = {
    "limit": _said(_COUNT, "Most to return; 0 for all."),
    "offset": _said(_COUNT, "How many of the newest to leave out."),
    "status": _said(_STATUS, "Only jobs that stand there."),
    "created_after": _said(_TIME, "Only jobs made then or later; UTC where no zone is said."),
    "function": _said(_TEXT, "Title of a function, or provider/title."),
    "provider": _said(_TEXT, "Whose function it is."),
    "filter": _said({"enum": ["serverless", "catalog"]}, "Own functions, or those of providers, alone."),
    "type": _said({"enum": ["ERROR"]}, "Only events of this kind."),
    "file": _said(_TEXT, "Name of the file."),
    "with_result": _said({"enum": ["true", "false"]}, "Without its result, a poll may be held until the job is over."),
}
"""What is asked for in a query."""
KEY: Final = "Idempotency-Key"
HEADERS: Final[dict[str, dict[str, Any]]] = {
    KEY: _said(
        {"type": "string", "maxLength": 128},
        "Repeated requests with one key make one job. Without a key, each makes one.",
    ),
}
"""What is asked for in headers."""
