"""Who may see what: tokens, and two users beside each other."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import h5py
import pytest
import requests
from qonduit.exceptions import AccessDeniedError, AuthenticationError, JobCanceledError, NotFoundError, QonduitError
from stack_control import Stack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qonduit import Job, ServerlessClient

PATIENCE_S = 300
UNTIL_CANCELED = "import time\nprint('begun', flush=True)\nwhile True:\n    time.sleep(0.05)\n"


@pytest.fixture(scope="module")
def stranger(stack: Stack) -> ServerlessClient:
    token = stack.qonduit("users", "add", "stranger").stdout.split()[-1]
    return stack.client(token)


def test_a_wrong_token_and_none_are_refused_with_what_to_do(stack: Stack) -> None:
    with pytest.raises(AuthenticationError, match="token"):
        stack.client("not-a-token").jobs()


def test_a_second_user_sees_nothing_of_the_first(
    stranger: ServerlessClient, client: ServerlessClient, submit: Callable[..., Job], tmp_path: Path
) -> None:
    job = submit("print('private')\nfrom qiskit_serverless import save_result\nsave_result({'secret': 1})\n")
    job.result(timeout=300)
    theirs = tmp_path / "mine.h5"
    with h5py.File(theirs, "w") as file:
        file["numbers"] = [1, 2, 3]
    client.file_upload(str(theirs))
    try:
        assert job.job_id not in [other.job_id for other in stranger.jobs()]
        assert stranger.files() == []
        assert stranger.list() == []
        with pytest.raises(NotFoundError):
            stranger.job(job.job_id)
        with pytest.raises(NotFoundError):
            stranger.file_download("mine.h5", download_location=str(tmp_path / "stolen"))
    finally:
        client.file_delete("mine.h5")


@pytest.mark.parametrize("rpc", ["logs", "result", "cancel", "timeline", "usage", "status"])
def test_each_call_on_anothers_job_finds_nothing(
    stranger: ServerlessClient, submit: Callable[..., Job], rpc: str
) -> None:
    from qonduit import Job as JobHandle  # noqa: PLC0415 - At run time only here.

    job = submit("print('private')\n")
    job.result(timeout=300)
    with pytest.raises(NotFoundError):
        getattr(JobHandle(job.job_id, client=stranger), rpc)()


class Follower(threading.Thread):
    """Follows a job's log until it is ended."""

    def __init__(self, job: Job) -> None:
        super().__init__(daemon=True)
        self._job = job
        self.begun = threading.Event()
        self.error: QonduitError | None = None

    def run(self) -> None:
        try:
            for _ in self._job.stream_logs():
                self.begun.set()
        except QonduitError as error:
            self.error = error


def asked_by_rest(stack: Stack, token: str) -> tuple[int, str]:
    """List jobs as clients of Qiskit Serverless do."""
    port = stack.services["gateway"]["ports"]["rest_port"]
    sent = {"Authorization": f"Bearer {token}"}
    answer = requests.get(f"http://127.0.0.1:{port}/api/v1/jobs", headers=sent, timeout=PATIENCE_S)
    return answer.status_code, answer.text


def as_user(stack: Stack, token: str) -> Stack:
    """Return the same stack, ruled by somebody else."""
    return Stack(stack.data_dir, environment={"QONDUIT_ADDRESS": stack.profile["address"], "QONDUIT_TOKEN": token})


def test_a_token_that_leaked_is_stopped_and_its_user_goes_on_with_another(
    stack: Stack, submit_to: Callable[..., Job]
) -> None:
    leaked = stack.qonduit("users", "add", "bob").stdout.strip()
    job = submit_to(stack.client(leaked), UNTIL_CANCELED)
    follower = Follower(job)
    follower.start()
    assert follower.begun.wait(PATIENCE_S)

    new = as_user(stack, leaked).qonduit("users", "token", "--label", "laptop").stdout.strip()
    bob = as_user(stack, new)
    first, second = json.loads(bob.qonduit("users", "tokens", "--json").stdout)
    assert (first["label"], second["label"]) == ("created", "laptop")
    bob.qonduit("users", "withdraw", first["token_id"])
    with pytest.raises(AuthenticationError):
        stack.client(leaked).jobs()
    assert asked_by_rest(stack, leaked)[0] == 401
    follower.join(PATIENCE_S)
    assert isinstance(follower.error, AuthenticationError)

    assert asked_by_rest(stack, new)[0] == 200
    refused = bob.qonduit("users", "withdraw", second["token_id"], check=False)
    assert "another one first" in refused.stderr
    assert stack.client(new).job(job.job_id).cancel()


def test_a_user_is_shut_out_with_their_jobs_and_let_in_again(stack: Stack, submit_to: Callable[..., Job]) -> None:
    token = stack.qonduit("users", "add", "carol").stdout.strip()
    job = submit_to(stack.client(token), UNTIL_CANCELED)
    follower = Follower(job)
    follower.start()
    assert follower.begun.wait(PATIENCE_S)

    said = stack.qonduit("users", "disable", "carol", "--reason", "left the lab", "--cancel-jobs").stdout
    assert said == "carol is disabled; 1 job of theirs was canceled.\n"
    with pytest.raises(AccessDeniedError, match="The user carol is disabled: left the lab"):
        job.status()
    status, text = asked_by_rest(stack, token)
    assert (status, "left the lab" in text) == (403, True)
    assert "disabled: left the lab" in stack.qonduit("users", "ls").stdout

    stack.qonduit("users", "enable", "carol")
    with pytest.raises(JobCanceledError):
        job.result(timeout=PATIENCE_S)
    follower.join(PATIENCE_S)
    assert not follower.is_alive()
