"""Who may see what: tokens, and two users beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h5py
import pytest
from qonduit.exceptions import AuthenticationError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qonduit import Job, ServerlessClient
    from stack_control import Stack


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
    job.result(timeout=60)
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
    job.result(timeout=60)
    with pytest.raises(NotFoundError):
        getattr(JobHandle(job.job_id, client=stranger), rpc)()
