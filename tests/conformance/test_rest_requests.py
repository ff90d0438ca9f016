"""Requests to the REST front that no version of the public client sends: repeated, mistaken, from elsewhere."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import requests
from qonduit import QiskitFunction
from serverless_people import people

if TYPE_CHECKING:
    from pathlib import Path

    from serverless_people import RestStack

FUNCTION = "keyed"
PROGRAM = "from qiskit_serverless import get_arguments, save_result\nsave_result(get_arguments())\n"


@pytest.fixture(scope="module")
def stack(rest_stack: RestStack, tmp_path_factory: pytest.TempPathFactory) -> RestStack:
    """The stack, with a function on it."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "program.py").write_text(PROGRAM)
    with rest_stack.client() as client:
        client.upload(QiskitFunction(title=FUNCTION, entrypoint="program.py", working_dir=str(folder)))
    return rest_stack


def run(stack: RestStack, key: str = "", arguments: str = "{}", **sent: Any) -> requests.Response:
    headers = {"Idempotency-Key": key} if key else {}
    asked = {"title": FUNCTION, "arguments": arguments, "provider": None}
    return stack.request("POST", "/programs/run", json=asked, headers=headers, **sent)


def test_a_key_makes_repeated_runs_one_job_also_at_once(stack: RestStack) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: run(stack, "once", '{"n": 1}'), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    (job_id,) = {answer.json()["id"] for answer in answers}
    assert stack.client().job(job_id).result(timeout=300) == {"n": 1}
    assert run(stack, "once", '{"n": 1}').json()["id"] == job_id


def test_a_key_for_another_request_is_refused_and_one_of_somebody_else_is_another(stack: RestStack) -> None:
    job_id = run(stack, "mine").json()["id"]
    refused = run(stack, "mine", '{"n": 2}')
    assert refused.status_code == 409
    assert job_id in refused.json()["message"]
    assert "Use a new key for a new job" in refused.json()["message"]
    token = stack.client().cluster.add_user("somebody")
    assert run(stack, "mine", token=token).status_code == 404  # They have no such function; the key tells them nothing.
    refused = run(stack, "k" * 129)
    assert (refused.status_code, "1 to 128 characters" in refused.json()["message"]) == (400, True)


def test_without_a_key_the_same_run_twice_is_two_jobs(stack: RestStack) -> None:
    first, second = (run(stack, arguments='{"n": 3}').json()["id"] for _ in range(2))
    assert first != second
    for job_id in (first, second):
        assert stack.client().job(job_id).result(timeout=300) == {"n": 3}


def test_an_alias_runs_its_version(stack: RestStack) -> None:
    asked = {"title": f"{FUNCTION}@latest", "arguments": "{}", "provider": None}
    job_id = stack.request("POST", "/programs/run", json=asked).json()["id"]
    assert stack.client().job(job_id).result(timeout=300) == {}


def test_jobs_are_listed_by_their_functions_id(stack: RestStack, tmp_path: Path) -> None:
    function = stack.request("GET", f"/programs/get_by_title/{FUNCTION}").json()
    job_id = run(stack).json()["id"]
    listed = stack.request("GET", f"/programs/{function['id']}/get_jobs/").json()
    assert next(each["id"] for each in listed) == job_id
    assert {each["program"]["id"] for each in listed} == {function["id"]}
    tokens = people(stack, "listed", tmp_path)
    (shared,) = stack.request("GET", "/programs?provider=listed", token=tokens["granted"]).json()
    path = f"/programs/{shared['id']}/get_jobs"
    assert stack.request("GET", path, token=tokens["granted"]).json() == []
    with stack.client(tokens["publisher"]) as publisher:
        publisher.providers.enable("listed/closed")
    asked = {"title": "closed", "provider": "listed", "arguments": "{}"}
    made = stack.request("POST", "/programs/run", json=asked, token=tokens["granted"]).json()["id"]
    seen = {name: stack.request("GET", path, token=tokens[name]).json() for name in ("granted", "publisher", "member")}
    assert {name: [each["id"] for each in jobs] for name, jobs in seen.items()} == {
        "granted": [made],
        "publisher": [made],
        "member": [],
    }
    refused = stack.request("GET", path, token=tokens["stranger"])
    assert (refused.status_code, refused.json()) == (404, {"message": f"Qiskit Function {shared['id']} doesn't exist."})


def test_deployments_find_what_they_probe_without_a_token(stack: RestStack) -> None:
    for path, body in (("/readiness/", {"status": "ok"}), ("/liveness/", {"status": "ok"})):
        answer = requests.get(stack.rest_url + path, timeout=30, allow_redirects=False)
        assert (answer.status_code, answer.json()) == (200, body)
    version = requests.get(f"{stack.rest_url}/version/", timeout=30).json()["version"]
    described = requests.get(f"{stack.rest_url}/swagger.json", timeout=30).json()
    assert (described["info"]["version"], "/api/v1/programs/run" in described["paths"]) == (version, True)


def test_what_programs_tell_elsewhere_is_refused_here(stack: RestStack) -> None:
    for method, path in (("POST", "/jobs/x/event/"), ("PATCH", "/jobs/x/sub_status/")):
        answer = stack.request(method, path)
        assert (answer.status_code, "Programs tell of themselves" in answer.text) == (404, True)


def test_who_is_not_let_in_is_told_why(stack: RestStack) -> None:
    for headers, words in (
        ({}, "Authorization token was not provided."),
        ({"Authorization": "Bearer wrong"}, "Authorization token is not valid."),
    ):
        for method, path in (("GET", "/programs/"), ("POST", "/jobs/x/event/"), ("GET", "/files/provider/")):
            answer = requests.request(method, f"{stack.rest_url}/api/v1{path}", headers=headers, timeout=30)
            assert (answer.status_code, list(answer.json())) == (401, ["detail"])
            assert answer.json()["detail"].startswith(words)
            assert answer.headers["WWW-Authenticate"] == "Bearer"


ARTIFACT = {"artifact": ("artifact.tar", b"no tar")}
UPLOAD = {"title": "x", "entrypoint": "a.py"}
WRONG: list[tuple[int, str, str, dict[str, Any], str]] = [
    (404, "GET", "/jobs/%00", {}, "not found"),
    (404, "POST", "/jobs/x/stop", {}, "Job [x] not found"),
    (404, "GET", "/jobs/x/provider-logs", {}, "Job [x] not found"),
    (404, "GET", "/jobs/x/result", {}, "Job [x] not found"),
    (400, "GET", "/jobs/x/events?type=OTHER", {}, "Type is not valid. Valid types: ['ERROR']"),
    (400, "GET", "/jobs?limit=abc", {}, "limit must be a whole number"),
    (400, "GET", "/jobs?created_after=yesterday", {}, "created_after must be a time such as"),
    (400, "GET", "/jobs?filter=others", {}, "filter must be serverless or catalog"),
    (404, "GET", "/jobs?function=nothing", {}, "Qiskit Function nothing doesn't exist."),
    (404, "GET", "/jobs?function=f&provider=p", {}, "Qiskit Function p/f doesn't exist."),
    (400, "GET", "/jobs/provider?provider=p", {}, "Name a function and its provider"),
    (404, "GET", "/jobs/provider?provider=p&function=f&status=SLEEPING", {}, "Provider p doesn't exist."),
    (400, "GET", "/programs?filter=others", {}, "filter must be serverless or catalog"),
    (404, "GET", "/programs/x/get_jobs", {}, "Qiskit Function x doesn't exist."),
    (404, "GET", "/programs/get_by_title/p/f/", {}, "Qiskit Function p/f doesn't exist."),
    (400, "POST", "/programs/run", {"data": b"\xff"}, "The body is no JSON text"),
    (400, "POST", "/programs/run", {"json": {"title": FUNCTION, "arguments": "[1]"}}, "must be a JSON object"),
    (400, "POST", "/programs/run", {"json": {"title": FUNCTION, "arguments": {}}}, "arguments must be a string"),
    (400, "POST", "/programs/run", {"data": '{"title": "keyed", "arguments": "\\ud800"}'}, "half of a surrogate pair"),
    (404, "POST", "/programs/run", {"json": {"title": "f", "provider": "p"}}, "Qiskit Function p/f doesn't exist."),
    (400, "POST", "/programs/upload", {"data": {"title": "x"}}, "the form's file `artifact`"),
    (
        404,
        "POST",
        "/programs/upload",
        {"files": ARTIFACT, "data": {**UPLOAD, "provider": "p"}},
        "Provider p doesn't exist.",
    ),
    (
        400,
        "POST",
        "/programs/upload",
        {"files": ARTIFACT, "data": {**UPLOAD, "entrypoint": "../a.py"}},
        "Invalid entrypoint. It must be a relative path to a .py file without '..' segments or shell characters.",
    ),
    (400, "POST", "/programs/upload", {"files": ARTIFACT, "data": {**UPLOAD, "sizes": '{"s": "x"}'}}, "have no sizes"),
    (
        400,
        "POST",
        "/programs/upload",
        {"files": ARTIFACT, "data": {**UPLOAD, "version": "new"}},
        "Invalid version - expected format x.y.z",
    ),
    (400, "POST", "/programs/upload", {"files": ARTIFACT, "data": UPLOAD}, "artifact ends"),
    (404, "GET", "/files/download?file=../../x", {}, "Requested file was not found."),
    (404, "GET", "/files?function=f&provider=p", {}, "Qiskit Function p/f doesn't exist."),
    (400, "GET", "/files/provider?function=f", {}, "Name a function and its provider"),
    (404, "DELETE", "/files/provider/delete?function=f&provider=p&file=a.tar", {}, "Provider p doesn't exist."),
    (400, "POST", "/files/upload", {}, "A file should be uploaded."),
    (400, "POST", "/files/upload", {"files": {"file": ("a.txt", b"x")}}, "Uploaded file is not a valid type."),
    (400, "POST", "/files/upload", {"files": {"file": ("a.tar", b"")}}, "is empty"),
]


def test_what_can_not_be_meant_is_refused_with_words(stack: RestStack) -> None:
    for status, method, path, sent, words in WRONG:
        answer = stack.request(method, path, **sent)
        assert (answer.status_code, list(answer.json())) == (status, ["message"]), (path, answer.text)
        assert words in answer.json()["message"], path
