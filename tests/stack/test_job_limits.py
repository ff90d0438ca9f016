"""How many jobs a user may have and run, and for how long, as an operator sets it and the user meets it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest
from qonduit import Configuration
from qonduit.exceptions import ActiveJobLimitError, InvalidRequestError, JobTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit import Job
    from stack_control import Stack

PATIENCE_S = 300.0
LIMIT_S = 3
UNTIL_CANCELED = f"""\
import time
print("begun", flush=True)
time.sleep({LIMIT_S})
print("longer than the limit", flush=True)
while True:
    time.sleep(0.05)
"""


def printed(job: Job, text: str) -> None:
    """Return once a job's program has printed a text."""
    lines = ""
    for piece in job.stream_logs():
        lines += piece
        if text in lines:
            return
    raise AssertionError(f"{text!r} is not in {lines!r}")


def begun(job: Job) -> None:
    """Return once a job's program has begun."""
    printed(job, "begun")


def why_it_waits(stack: Stack, job: Job) -> str:
    """Return why a job waits, once the scheduler has reported it."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        entries = json.loads(stack.qonduit("queue", "--json").stdout)
        found = [entry["why"] for entry in entries if entry["job_id"] == job.job_id]
        if found:
            return str(found[0])
    raise AssertionError(f"{job.job_id} is not in the queue")


def test_jobs_beyond_the_limits_wait_or_are_refused_with_the_numbers(
    stack: Stack, submit_to: Callable[..., Job]
) -> None:
    token = stack.qonduit("users", "add", "alice").stdout.split()[-1]
    stack.qonduit("users", "limit", "alice", "--active-jobs", "3", "--running-jobs", "1", "--time-limit", "600")
    alice = stack.client(token)
    first, second = (submit_to(alice, UNTIL_CANCELED) for _ in range(2))
    third = submit_to(alice, UNTIL_CANCELED, Configuration(time_limit_s=LIMIT_S))
    begun(first)
    assert why_it_waits(stack, second) == "alice has 1 job running and may have 1; this one waits for their end"

    with pytest.raises(ActiveJobLimitError, match="alice has 3 jobs that are not over, and may have 3") as refused:
        submit_to(alice, UNTIL_CANCELED)
    assert (refused.value.active, refused.value.limit) == (3, 3)
    assert refused_by_rest(stack, token) == (
        429,
        {"message": "Active job limit reached. The maximum allowed is 3."},
    )
    with pytest.raises(InvalidRequestError, match="at most 600, the longest that alice may ask for, and is 601"):
        submit_to(alice, UNTIL_CANCELED, Configuration(time_limit_s=601))

    first.cancel()
    printed(second, "longer than the limit")
    assert third.status() == "QUEUED"
    stack.qonduit("users", "limit", "alice", "--running-jobs", "2")
    with pytest.raises(JobTimeoutError, match=f"past its time limit of {LIMIT_S} s"):
        third.result(timeout=PATIENCE_S)
    assert second.status() == "RUNNING", "they ran side by side"
    second.cancel()

    at = {entry.status: entry.time for entry in third.timeline()}
    assert (at["RUNNING"] - at["QUEUED"]).total_seconds() > LIMIT_S, "it must have waited for longer than it may run"
    assert (at["ERROR"] - at["RUNNING"]).total_seconds() >= LIMIT_S, "waiting must not count"


def refused_by_rest(stack: Stack, token: str) -> tuple[int, object]:
    """Run a function by the REST front, as clients of Qiskit Serverless do; return the refusal."""
    title = stack.client(token).list()[0].title
    port = stack.services["gateway"]["ports"]["rest_port"]
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/v1/programs/run/",
        data=json.dumps({"title": title, "arguments": "{}"}).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=PATIENCE_S)  # noqa: S310 - As above.
    with caught.value as answer:
        return answer.code, json.loads(answer.read())
