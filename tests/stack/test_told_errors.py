"""Errors that a program tells its users, as its own author sees them; and what a task finds of its job."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from qonduit import JobFailedError
from qonduit.job_history import ToldError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit import Job
    from stack_control import Stack

TELLS = """
from qonduit import ServerlessError, distribute_task, get, send_error, update_status

@distribute_task()
def flickers():
    send_error("T", "from a task", "E")
    raise ServerlessError("E42", "the lamp is broken", {"lamp": 7})

update_status("MAPPING")
send_error("W1", "the lamp flickers", "Warning")
get(flickers())
"""
ASKS = """
import os, requests
from qonduit import distribute_task, get, save_result

@distribute_task()
def asks():
    found = {name: os.environ[name] for name in ("ENV_ACCESS_TRIAL", "ENV_JOB_FUNCTION_SIZE", "ENV_JOB_ID_GATEWAY")}
    host, token = os.environ["ENV_JOB_GATEWAY_HOST"], os.environ["ENV_JOB_GATEWAY_TOKEN"]
    job, sent = f"{host}/api/v1/jobs/{os.environ['ENV_JOB_ID_GATEWAY']}/", {"Authorization": f"Bearer {token}"}
    own = requests.get(job, headers=sent, timeout=30)
    stage = requests.patch(job + "sub_status/", data={"sub_status": "MAPPING"}, headers=sent, timeout=30)
    return found | {"own": own.json()["id"], "stage": [stage.status_code, stage.json()["message"]]}

save_result(get(asks()))
"""


def test_errors_are_in_the_timeline_and_the_last_one_is_why_it_failed(stack: Stack, submit: Callable[..., Job]) -> None:
    job = submit(TELLS)
    with pytest.raises(JobFailedError, match=r"ServerlessError: \[E42\] the lamp is broken"):
        job.result(timeout=300)
    told = [entry for entry in job.timeline() if entry.error is not None]
    assert [(entry.status, entry.error) for entry in told] == [
        ("RUNNING: MAPPING", ToldError("W1", "the lamp flickers", "Warning")),
        ("ERROR", ToldError("E42", "the lamp is broken", "ServerlessError", {"lamp": 7})),
    ]
    assert told[0].text == "[W1] the lamp flickers"
    assert "ERROR: Error T: from a task" in job.logs(), "a task's own word goes to the log"
    shown = json.loads(stack.qonduit("job", "timeline", job.job_id, "--json").stdout)
    assert [entry["error"]["code"] for entry in shown if entry["error"]] == ["W1", "E42"]


def test_a_task_has_its_jobs_environment_and_says_nothing_of_the_job(submit: Callable[..., Job]) -> None:
    job = submit(ASKS)
    assert job.result(timeout=300) == {
        "ENV_ACCESS_TRIAL": "False",
        "ENV_JOB_FUNCTION_SIZE": "",
        "ENV_JOB_ID_GATEWAY": job.job_id,
        "own": job.job_id,
        "stage": [403, "A task can't say this of its job: say it in the program that starts the tasks."],
    }
