"""What the REST front says of jobs and functions, and of refusals, in the words of Qiskit Serverless."""

from __future__ import annotations

import json

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from qonduit_api.v1 import functions_pb2, jobs_pb2, types_pb2
from qonduit_gateway.jobs.model import JobState, status_text
from qonduit_gateway.rest import bodies, errors, wording
from qonduit_gateway.rest.names import function_name
from qonduit_service_kit.errors import ApiError
from qonduit_service_kit.messages import Stage

THEIRS = {
    "QUEUED": "QUEUED",
    "INITIALIZING": "PENDING",
    "RUNNING": "RUNNING",
    "CANCELING": "STOPPING",
    "DONE": "SUCCEEDED",
    "ERROR": "FAILED",
    "CANCELED": "STOPPED",
}
SUB_STATUS = {
    "MAPPING": "MAPPING",
    "OPTIMIZING_FOR_HARDWARE": "OPTIMIZING_HARDWARE",
    "WAITING_FOR_QPU": "WAITING_QPU",
    "EXECUTING_QPU": "EXECUTING_QPU",
    "POST_PROCESSING": "POST_PROCESSING",
}


@pytest.mark.parametrize("state", JobState)
def test_every_state_has_a_word_of_theirs_and_is_found_by_it(state: JobState) -> None:
    job = jobs_pb2.Job(status=status_text(state, Stage.NONE))
    assert wording.status(job) == (THEIRS[state.value], None)
    wanted = [types_pb2.JobState.Value(f"JOB_STATE_{state.value}")]
    assert wording.states_of(THEIRS[state.value]) == wording.states_of(state.value) == wanted


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.NONE])
def test_every_stage_has_a_sub_status_of_theirs(stage: Stage) -> None:
    words = status_text(JobState.RUNNING, stage)
    assert wording.status_of_text(words) == ("RUNNING", SUB_STATUS[words.partition(": ")[2]])


def test_a_word_that_no_job_has_finds_nothing() -> None:
    assert wording.states_of("SLEEPING") is None


def test_events_are_newest_first_and_tell_why_a_job_failed() -> None:
    times = [Timestamp(seconds=1_700_000_000 + second, nanos=5_000) for second in range(5)]
    told = ["QUEUED", "RUNNING", "RUNNING: MAPPING", "RUNNING", "ERROR"]
    entries = [jobs_pb2.TimelineEntry(time=at, status=words) for at, words in zip(times, told, strict=True)]
    text = "Traceback ...\nValueError: the lamp is broken\n"
    job = jobs_pb2.Job(
        state=types_pb2.JOB_STATE_ERROR, reason=types_pb2.REASON_PROGRAM_ERROR, error_text=text, end_time=times[-1]
    )
    made = wording.events(job, entries)
    assert [(each["event_type"], next(iter(each["data"].values()))) for each in made] == [
        ("ERROR", "PROGRAM_ERROR"),
        ("STATUS_CHANGE", "FAILED"),
        ("SUB_STATUS_CHANGE", "MAPPING"),
        ("STATUS_CHANGE", "RUNNING"),
        ("STATUS_CHANGE", "QUEUED"),
    ]
    assert made[0]["data"]["message"] == text.strip()
    assert made[0]["data"]["exception"] == "ValueError: the lamp is broken"
    assert made[0]["created"] == "2023-11-14T22:13:24.000005Z"


def test_a_function_keeps_its_id_and_has_its_schema_as_text() -> None:
    spec = functions_pb2.FunctionSpec(title="f", entrypoint="f.py", dependencies=["numpy"])
    function = functions_pb2.Function(spec=spec, owner="alice", version="1" * 64)
    again = functions_pb2.Function(spec=spec, owner="alice", version="2" * 64)
    other = functions_pb2.Function(spec=spec, owner="bob")
    made = wording.function(function)
    assert made["id"] == wording.function(again)["id"] != wording.function(other)["id"]
    assert (made["arguments_schema"], made["dependencies"], made["provider"]) == ("{}", ["numpy"], None)
    shared = wording.function(functions_pb2.Function(spec=functions_pb2.FunctionSpec(title="f"), provider="alice"))
    assert shared["id"] != made["id"]
    assert (shared["provider"], shared["entrypoint"], shared["artifact"]) == ("alice", None, None)


@pytest.mark.parametrize(
    ("code", "reason", "metadata", "status", "body"),
    [
        ("NOT_FOUND", "JOB_NOT_FOUND", {"job_id": "x"}, 404, {"message": "Job [x] not found"}),
        (
            "NOT_FOUND",
            "FUNCTION_NOT_FOUND",
            {"function_title": "f", "function_version": ""},
            404,
            {"message": "Qiskit Function f doesn't exist."},
        ),
        (
            "NOT_FOUND",
            "FUNCTION_NOT_FOUND",
            {"function_title": "acme/f"},
            404,
            {"message": "Qiskit Function acme/f doesn't exist."},
        ),
        (
            "PERMISSION_DENIED",
            "ROLE_MISSING",
            {"provider": "acme", "function_title": "f"},
            404,
            {"message": "Qiskit Function acme/f doesn't exist."},
        ),
        ("NOT_FOUND", "PROVIDER_NOT_FOUND", {"provider": "acme"}, 404, {"message": "Provider acme doesn't exist."}),
        ("FAILED_PRECONDITION", "FUNCTION_DISABLED", {"disabled_text": "Later."}, 423, {"message": "Later."}),
        ("NOT_FOUND", "FILE_NOT_FOUND", {}, 404, {"message": "Requested file was not found."}),
        ("UNAUTHENTICATED", "TOKEN_INVALID", {}, 401, {"detail": "Authorization token is not valid. ours"}),
        ("UNAUTHENTICATED", "TOKEN_MISSING", {}, 401, {"detail": "Authorization token was not provided. ours"}),
        ("PERMISSION_DENIED", "USER_DISABLED", {}, 403, {"message": "ours"}),
        ("INVALID_ARGUMENT", "INVALID_FUNCTION", {}, 400, {"message": "ours"}),
        ("RESOURCE_EXHAUSTED", "ARTIFACT_TOO_LARGE", {}, 413, {"message": "ours"}),
        (
            "RESOURCE_EXHAUSTED",
            "ACTIVE_JOB_LIMIT",
            {"limit": "50", "active": "51"},
            429,
            {"message": "Active job limit reached. The maximum allowed is 50."},
        ),
        ("UNAVAILABLE", "DATABASE_UNAVAILABLE", {}, 503, {"message": "ours"}),
        ("DATA_LOSS", "ANYTHING", {}, 500, {"message": "ours"}),
    ],
)
def test_a_refusal_is_an_object_with_their_words_where_they_have_some(
    code: str, reason: str, metadata: dict[str, str], status: int, body: dict[str, str]
) -> None:
    answer = errors.response(ApiError(grpc.StatusCode[code], reason, "ours", metadata=metadata))
    assert (answer.status_code, json.loads(bytes(answer.body))) == (status, body)
    assert (answer.headers.get("www-authenticate") == "Bearer") == (status == 401)


@pytest.mark.parametrize(
    ("field", "theirs"),
    [
        ("spec.entrypoint", "Invalid entrypoint. It must be"),
        ("spec.version_label", "Invalid version - expected format"),
    ],
)
def test_what_is_wrong_with_a_function_is_said_in_their_words_and_in_ours(field: str, theirs: str) -> None:
    error = ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FUNCTION", "Do this.", violations={field: "Do this."})
    said = json.loads(bytes(errors.response(error).body))["message"]
    assert (said.startswith(theirs), said.endswith(" Do this.")) == (True, True)


def test_names_lose_what_theirs_lose_and_have_their_provider_before_them() -> None:
    assert function_name("  my fn!", None) == "myfn"
    assert function_name("f@stable", "") == "f@stable"
    for title, provider in (("p/f", None), ("f", " p "), ("p/f", "p"), ("f!", "p?")):
        assert function_name(title, provider) == "p/f"


def test_fields_lose_the_blanks_around_them_and_are_what_they_must_be() -> None:
    assert bodies.text({"a": " b\n"}, "a") == "b"
    assert bodies.text({"a": None}, "a") == bodies.text({}, "a") == ""
    assert bodies.json_field({"a": "[1]"}, "a", list, []) == [1]
    with pytest.raises(ApiError, match="a must be a string"):
        bodies.text({"a": 1}, "a")
    with pytest.raises(ApiError, match="a must be a JSON list"):
        bodies.json_field({"a": "{}"}, "a", list, [])
    with pytest.raises(ApiError, match="a is no JSON text"):
        bodies.json_field({"a": "{"}, "a", dict, {})
