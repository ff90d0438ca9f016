"""The public client of Qiskit Serverless, unmodified, version by version, against a stack; and docs/compatibility.md.

QONDUIT_WRITE_COMPATIBILITY=1 writes the table there; otherwise it is compared with what came of the calls.
"""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest
from client_environments import serverless_environment_of
from serverless_people import VERSIONS, people

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serverless_people import RestStack

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
# The calls themselves take less than a minute; environments that are not there yet have to be built before.
pytestmark = pytest.mark.timeout(1800)
NEVER_CALLED = {
    "GET /api/v1/programs/{program_id}/get_jobs",  # By no method of any of these versions; it has a test of its own.
    "POST /api/v1/jobs/{job_id}/result",
    "POST /api/v1/jobs/{job_id}/event",
    "PATCH /api/v1/jobs/{job_id}/sub_status",
    "POST /api/v1/jobs/{job_id}/runtime_jobs",
}


@dataclass
class Run:
    """What came of each method, by version, and what was said meanwhile."""

    outcomes: dict[str, dict[str, str]]
    answers: list[dict[str, Any]]


@pytest.fixture(scope="module")
def run(rest_stack: RestStack, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Have each version call all of its methods, side by side."""
    folders = {version: tmp_path_factory.mktemp("calls") for version in VERSIONS}
    for version, beside in VERSIONS.items():
        serverless_environment_of(version, *beside)

    def calls(version: str) -> dict[str, str]:
        tokens = people(rest_stack, f"acme-{version}", tmp_path_factory.mktemp("closed"))
        return rest_stack.call_as(version, tokens, folders[version])

    with ThreadPoolExecutor(len(VERSIONS)) as pool:
        outcomes = dict(zip(VERSIONS, pool.map(calls, VERSIONS), strict=True))
    lines = [line for folder in folders.values() for line in (folder / "answers.jsonl").read_text().splitlines()]
    return Run(outcomes, [json.loads(line) for line in lines])


def test_every_method_of_every_version_does_what_the_page_says(run: Run) -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    written, _, after = rest.partition(END)
    if os.environ.get("QONDUIT_WRITE_COMPATIBILITY"):
        PAGE.write_text(before + BEGIN + table(run.outcomes) + END + after)
        return
    assert written == table(run.outcomes), (
        "run this test with QONDUIT_WRITE_COMPATIBILITY=1 to write docs/compatibility.md"
    )


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


def test_what_clients_send_and_are_answered_is_as_the_description_says(rest_stack: RestStack, run: Run) -> None:
    described = rest_stack.request("GET", "/openapi.json").json()
    shapes = Shapes(described)
    seen = {operation for answer in run.answers if (operation := shapes.check(answer)) is not None}
    everything = {f"{method.upper()} {path}" for path, item in described["paths"].items() for method in item}
    assert seen == everything - NEVER_CALLED


class Shapes:
    """The bodies that a description of the API tells of."""

    def __init__(self, described: dict[str, Any]) -> None:
        self._components = described["components"]
        self._paths = [
            (re.compile(re.sub(r"{\w+}", "[^/]+", path)), path, item) for path, item in described["paths"].items()
        ]

    def check(self, answer: dict[str, Any]) -> str | None:
        """Hold a request and its answer to what is described; returns the operation if it was done."""
        path = answer["path"].rstrip("/")
        # A path of its own goes before one with a name in it.
        found = sorted((known, item) for shape, known, item in self._paths if shape.fullmatch(path))
        assert found, f"{path} is not described"
        known, item = next((each for each in found if "{" not in each[0]), found[0])
        described = item[answer["method"].lower()]
        status = str(answer["status"])
        response = described["responses"].get(status) or described["responses"]["default"]
        self._fits(response, answer["body"], f"{answer['method']} {path} {status}")
        if answer["sent"] is not None and status == "200":
            self._fits(described["requestBody"], answer["sent"], f"{answer['method']} {path}")
        return f"{answer['method']} {known}" if status in {"200", "204"} else None

    def _fits(self, described: dict[str, Any], body: Any, where: str) -> None:
        schema = described.get("content", {}).get("application/json", {}).get("schema")
        if schema is None:
            return
        whole = {**schema, "components": self._components, "$schema": "https://json-schema.org/draft/2020-12/schema"}
        wrong = [str(error) for error in jsonschema_rs.validator_for(whole, validate_formats=True).iter_errors(body)]
        assert not wrong, f"{where}: {wrong[:3]}\n{json.dumps(body)[:2000]}"


@pytest.fixture
def no_room(rest_stack: RestStack) -> Iterator[None]:
    """Have no worker take a job."""
    with rest_stack.client() as root:
        names = [worker.worker_id for worker in root.cluster.workers()]
        for name in names:
            root.cluster.drain(name)
            for _ in root.cluster.until_drained(name):
                pass
        yield
        for name in names:
            root.cluster.resume(name)


@pytest.mark.usefixtures("no_room", "run")
def test_a_job_that_waits_for_room_is_stopped(rest_stack: RestStack, tmp_path: Path) -> None:
    def calls(version: str) -> dict[str, str]:
        (folder := tmp_path / version).mkdir()
        with rest_stack.client() as root:
            token = root.cluster.add_user(f"waiting-{version}")
        return rest_stack.call_as(version, {"me": token}, folder, "no_room")

    with ThreadPoolExecutor(len(VERSIONS)) as pool:
        assert list(pool.map(calls, VERSIONS)) == [{"a queued job": "works"}] * len(VERSIONS)
