"""The public client of Qiskit Serverless, unmodified, version by version, against a stack; and docs/compatibility.md.

QONDUIT_WRITE_COMPATIBILITY=1 writes the table there; otherwise it is compared with what came of the calls.
"""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from client_environments import serverless_environment_of
from qonduit import QiskitFunction
from stack_control import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSIONS: dict[str, tuple[str, ...]] = {
    # By itself it would take a qiskit-ibm-runtime that it can't be imported with.
    "0.22.0": ("qiskit-ibm-runtime==0.37.0", "qiskit==2.6.2"),
    "0.36.0": ("qiskit-ibm-runtime==0.49.0", "qiskit==2.6.2"),
    "0.37.0": ("qiskit-ibm-runtime==0.50.0", "qiskit==2.6.2"),
}
SCRIPT = Path(__file__).with_name("serverless_calls.py")
PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
CALLS_TIMEOUT_S = 400
# The calls themselves take half a minute; environments that are not there yet have to be built before.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = Stack(tmp_path_factory.mktemp("stack"))
    running.up()
    yield running
    running.down()


@pytest.fixture(scope="module")
def outcomes(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What came of each method, by version."""
    pythons = {version: serverless_environment_of(version, *beside).python for version, beside in VERSIONS.items()}
    status = stack.qonduit("status", "--json", "--data-dir", str(stack.data_dir)).stdout
    address = json.loads(status)["rest_address"]

    def calls(version: str) -> dict[str, str]:
        token = stack.qonduit("users", "add", f"with-{version}").stdout.split()[-1]
        # What the client would ask of IBM when it cancels a job stays here.
        nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1", "HOME": str(stack.data_dir)}
        done = subprocess.run(
            [pythons[version], str(SCRIPT), address, token],
            env={**os.environ, **nowhere},
            cwd=tmp_path_factory.mktemp("calls"),
            capture_output=True,
            text=True,
            check=False,
            timeout=CALLS_TIMEOUT_S,
        )
        assert done.returncode == 0, done.stderr
        made: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        failed = {name: text for name, text in made.items() if text.startswith("fails")}
        assert not failed, f"{version}: {failed}\n{done.stderr}"
        return made

    with ThreadPoolExecutor(len(VERSIONS)) as pool:
        return dict(zip(VERSIONS, pool.map(calls, VERSIONS), strict=True))


def test_every_method_of_every_version_does_what_the_page_says(outcomes: dict[str, dict[str, str]]) -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    written, _, after = rest.partition(END)
    if os.environ.get("QONDUIT_WRITE_COMPATIBILITY"):
        PAGE.write_text(before + BEGIN + table(outcomes) + END + after)
        return
    assert written == table(outcomes), "run this test with QONDUIT_WRITE_COMPATIBILITY=1 to write docs/compatibility.md"


def table(outcomes: dict[str, dict[str, str]]) -> str:
    """Return the table, and below it how each method differs that does."""
    names = list(next(iter(outcomes.values())))
    lines = [f"| method | {' | '.join(outcomes)} |", f"|---|{'---|' * len(outcomes)}"]
    notes: list[str] = []
    for name in names:
        cells = []
        for version in outcomes:
            word, _, how = outcomes[version][name].partition(": ")
            if how and how not in notes:
                notes.append(how)
            cells.append(f"{word} ({notes.index(how) + 1})" if how else word)
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    numbered = [f"{number}. {how[0].upper()}{how[1:]}." for number, how in enumerate(notes, 1)]
    return "\n".join([*lines, "", *numbered, ""])


def test_a_key_makes_a_repeated_run_one_job_and_an_alias_runs_its_version(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("print('hello')\n")
    client = stack.client()
    client.upload(QiskitFunction(title="keyed", entrypoint="program.py", working_dir=str(tmp_path)))
    url = f"http://127.0.0.1:{stack.services['gateway']['ports']['rest_port']}/api/v1/programs/run"
    headers = {"Authorization": f"Bearer {stack.profile['token']}", "Idempotency-Key": "once"}
    asked = {"title": "keyed@latest", "arguments": "{}", "provider": None}
    ids = {requests.post(url, json=asked, headers=headers, timeout=30).json()["id"] for _ in range(2)}
    (job_id,) = ids
    assert client.job(job_id).result(timeout=60) == {}
    del headers["Idempotency-Key"]
    other = requests.post(url, json=asked, headers=headers, timeout=30).json()["id"]
    assert other != job_id


def test_what_is_not_there_yet_says_so(stack: Stack) -> None:
    url = f"http://127.0.0.1:{stack.services['gateway']['ports']['rest_port']}/api/v1"
    headers = {"Authorization": f"Bearer {stack.profile['token']}"}
    for method, path in (("GET", "/files/provider/"), ("POST", "/jobs/x/event/"), ("PATCH", "/jobs/x/sub_status/")):
        answer = requests.request(method, url + path, headers=headers, timeout=30, allow_redirects=False)
        assert answer.status_code == 404
        assert "not offered by this server yet" in answer.text or "Programs tell of themselves" in answer.text
        assert requests.request(method, url + path, timeout=30).status_code == 401


ARTIFACT = {"artifact": ("artifact.tar", b"no tar")}
WRONG: list[tuple[int, str, str, dict[str, Any], str]] = [
    (404, "GET", "/jobs/%00", {}, "not found"),
    (404, "POST", "/jobs/x/stop", {}, "Job [x] not found"),
    (400, "GET", "/jobs?limit=abc", {}, "limit must be a whole number"),
    (400, "GET", "/jobs?created_after=yesterday", {}, "created_after must be a time such as"),
    (404, "GET", "/jobs?function=nothing", {}, "Qiskit Function nothing doesn't exist."),
    (400, "POST", "/programs/run", {"data": b"\xff"}, "The body is no JSON text"),
    (400, "POST", "/programs/run", {"json": {"title": "keyed", "arguments": "[1]"}}, "must be a JSON object"),
    (400, "POST", "/programs/run", {"json": {"title": "keyed", "arguments": {}}}, "arguments must be a string"),
    (400, "POST", "/programs/run", {"data": '{"title": "keyed", "arguments": "\\ud800"}'}, "half of a surrogate pair"),
    (400, "POST", "/programs/upload", {"data": {"title": "x"}}, "the form's file `artifact`"),
    (
        400,
        "POST",
        "/programs/upload",
        {"files": ARTIFACT, "data": {"title": "x", "entrypoint": "../a.py"}},
        "leaves the",
    ),
    (
        400,
        "POST",
        "/programs/upload",
        {"files": ARTIFACT, "data": {"title": "x", "entrypoint": "a.py"}},
        "artifact ends",
    ),
    (404, "GET", "/files/download?file=../../x", {}, "Requested file was not found."),
    (400, "POST", "/files/upload", {}, "A file should be uploaded."),
    (400, "POST", "/files/upload", {"files": {"file": ("a.tar", b"")}}, "is empty"),
]


def test_what_can_not_be_meant_is_refused_with_words(stack: Stack) -> None:
    url = f"http://127.0.0.1:{stack.services['gateway']['ports']['rest_port']}/api/v1"
    headers = {"Authorization": f"Bearer {stack.profile['token']}"}
    for status, method, path, sent, words in WRONG:
        answer = requests.request(method, url + path, headers=headers, timeout=30, **sent)
        assert (answer.status_code, list(answer.json())) == (status, ["message"]), (path, answer.text)
        assert words in answer.json()["message"], path
