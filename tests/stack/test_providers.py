"""Functions that are shared, on a whole stack: an owner, an admin, users, a group, a trial, a stranger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import h5py
import pytest
from qonduit import QiskitFunction
from qonduit.exceptions import (
    FunctionDisabledError,
    FunctionNotFoundError,
    JobNotFoundError,
    NotFoundError,
    ProviderNotFoundError,
    RoleMissingError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from qonduit import Job, ServerlessClient
    from stack_control import Stack

PROGRAM = """\
import os
from pathlib import Path

from qiskit_serverless import get_arguments, save_result

wanted = get_arguments()
print("[PUBLIC] solving", wanted["n"])
print("[PRIVATE] the provider's secret is", os.environ["SECRET"])
names = sorted(path.name for path in Path(os.environ["DATA_PATH"]).iterdir())
provided = Path("/function_data/weights.h5")
save_result({"square": wanted["n"] ** 2, "files": names, "weights": provided.exists()})
"""


@dataclass
class People:
    """Everybody, by what they may do with acme/solver."""

    admin: ServerlessClient
    user: ServerlessClient
    member: ServerlessClient
    trial: ServerlessClient
    reader: ServerlessClient
    support: ServerlessClient
    stranger: ServerlessClient


@pytest.fixture(scope="module")
def people(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    """Make them and acme/solver, as people do it in a shell."""
    tokens = {
        name: stack.qonduit("users", "add", f"p-{name}").stdout.split()[-1] for name in People.__dataclass_fields__
    }
    clients = {name: stack.client(token) for name, token in tokens.items()}
    stack.qonduit("provider", "create", "acme", "--admin", "p-admin")
    stack.qonduit("groups", "create", "chemists")
    stack.qonduit("groups", "add", "chemists", "p-member")
    folder = tmp_path_factory.mktemp("solver")
    (folder / "solver.py").write_text(PROGRAM)
    as_admin = _as(stack, tokens["admin"])
    env = ("--env", "SECRET=forty-two")
    as_admin.qonduit("upload", str(folder / "solver.py"), "--provider", "acme", *env)
    for role, *whom in (
        ("RUN", "--user", "p-user"),
        ("RUN", "--group", "chemists"),
        ("TRIAL", "--user", "p-trial"),
        ("READ", "--user", "p-reader"),
        ("LOGS", "--user", "p-support"),
    ):
        as_admin.qonduit("grant", "add", "acme/solver", role, *whom)
    yield People(**clients)
    for client in clients.values():
        client.close()


def _as(stack: Stack, token: str) -> Stack:
    """Return the command of another user."""
    other = type(stack)(stack.data_dir)
    other.environment |= {"QONDUIT_ADDRESS": stack.profile["address"], "QONDUIT_TOKEN": token}
    return other


def _run(client: ServerlessClient, n: int) -> Job:
    job = client.run("acme/solver", arguments={"n": n})
    assert job.result(timeout=300)["square"] == n * n
    return job


def test_who_may_run_it_runs_it_and_nobody_else(people: People) -> None:
    jobs = [_run(client, n) for n, client in enumerate((people.user, people.member, people.trial, people.admin))]
    assert [job.snapshot().trial for job in jobs] == [False, False, True, False]
    for client in (people.reader, people.support):
        with pytest.raises(RoleMissingError, match="acme"):
            client.run("acme/solver", arguments={"n": 1})
    with pytest.raises(FunctionNotFoundError) as hidden:
        people.stranger.run("acme/solver", arguments={"n": 1})
    with pytest.raises(FunctionNotFoundError) as absent:
        people.stranger.run("acme/sulver", arguments={"n": 1})
    assert str(hidden.value).replace("solver", "sulver") == str(absent.value)


def test_what_a_function_consists_of_is_its_admins_alone(people: People) -> None:
    for client in (people.user, people.reader):
        seen = client.function("acme/solver")
        assert (seen.entrypoint, seen.size_bytes, seen.name) == ("", 0, "acme/solver")
        assert [version.version for version in seen.versions()] == [seen.version]
        with pytest.raises(RoleMissingError):
            seen.files()
    assert [file.path for file in people.admin.function("acme/solver").files()] == ["solver.py"]
    assert people.stranger.list(whose="all") == []
    with pytest.raises(ProviderNotFoundError):
        people.stranger.providers.get("acme")


def test_a_user_and_the_provider_see_each_their_log_and_no_more(people: People) -> None:
    job = _run(people.user, 7)
    assert job.logs() == "solving 7\n"
    for client in (people.support, people.admin):
        (seen,) = [each for each in client.provider_jobs("acme/solver", limit=50) if each.job_id == job.job_id]
        assert (seen.snapshot().owner, seen.status()) == ("p-user", "DONE")
        assert seen.provider_logs() == "the provider's secret is forty-two\n"
        for call in (seen.logs, seen.result, seen.arguments, seen.cancel, seen.timeline):
            with pytest.raises(JobNotFoundError):
                call()
    with pytest.raises(JobNotFoundError):
        job.provider_logs()
    with pytest.raises(RoleMissingError):
        people.user.provider_jobs("acme/solver")


def test_files_of_the_user_and_of_the_provider_meet_in_the_program_alone(people: People, tmp_path: Path) -> None:
    for name in ("mine", "weights", "elsewhere"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["numbers"] = [1, 2, 3]
    people.user.file_upload(tmp_path / "mine.h5", "acme/solver")
    people.user.file_upload(tmp_path / "elsewhere.h5")
    people.admin.provider_file_upload(tmp_path / "weights.h5", "acme/solver")
    result = people.user.run("acme/solver", arguments={"n": 2}).result(timeout=300)
    assert (result["files"], result["weights"]) == (["mine.h5"], True)
    assert people.user.files("acme/solver") == ["mine.h5"]
    assert people.admin.files("acme/solver") == people.member.files("acme/solver") == []
    with pytest.raises(RoleMissingError):
        people.user.provider_files("acme/solver")
    with pytest.raises(NotFoundError):
        people.stranger.files("acme/solver")


def test_a_function_that_is_disabled_says_why_until_it_is_enabled(people: People) -> None:
    people.admin.providers.disable("acme/solver", "Use acme/better until Monday.")
    with pytest.raises(FunctionDisabledError, match="Use acme/better until Monday"):
        people.user.run("acme/solver", arguments={"n": 1})
    assert people.reader.function("acme/solver").disabled_text == "Use acme/better until Monday."
    people.admin.providers.enable("acme/solver")
    _run(people.user, 3)


def test_a_revoked_grant_holds_from_the_next_call_and_no_job_is_lost(people: People) -> None:
    people.admin.providers.grant("acme", "RUN", user="p-stranger")
    job = people.stranger.run("acme/solver", arguments={"n": 5})
    people.admin.providers.revoke("acme", "RUN", user="p-stranger")
    with pytest.raises(FunctionNotFoundError):
        people.stranger.run("acme/solver", arguments={"n": 5})
    assert job.result(timeout=300)["square"] == 25
    done = [(entry.action, entry.subject, entry.detail) for entry in people.admin.providers.audit("acme", limit=2)]
    assert done == [("grant.remove", "user p-stranger", "RUN"), ("grant.add", "user p-stranger", "RUN")]


def test_a_provider_goes_on_with_its_functions_as_with_ones_own(people: People, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("from qiskit_serverless import save_result\nsave_result({'version': 1})\n")
    function = QiskitFunction("acme/other", entrypoint="other.py", working_dir=str(tmp_path))
    first = people.admin.upload(function)
    first.set_alias("stable")
    (tmp_path / "other.py").write_text("from qiskit_serverless import save_result\nsave_result({'version': 2})\n")
    people.admin.upload(function)
    people.admin.providers.grant("acme/other", "RUN", everyone=True)
    assert people.user.run("acme/other").result(timeout=300) == {"version": 2}
    assert people.user.run("acme/other@stable").result(timeout=300) == {"version": 1}
    people.admin.get("acme/other").rollback()
    assert people.stranger.run("acme/other").result(timeout=300) == {"version": 1}
