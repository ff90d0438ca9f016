"""Functions of providers, in the SDK and on the command line, against a gateway in this process."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING

import pytest
from fake_providers import NOW
from qonduit import QiskitFunction, ServerlessClient, cli
from qonduit import exceptions as errors
from qonduit_api.v1 import jobs_pb2, types_pb2
from qonduit_api.v1 import providers_pb2 as pb

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Run
    from fake_gateway import FakeGateway
    from qonduit import RunnableQiskitFunction


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "solver.py").write_text("print('hello')\n")
    return tmp_path / "source"


@pytest.fixture
def solver(client: ServerlessClient, folder: Path) -> RunnableQiskitFunction:
    return client.upload(QiskitFunction("solver", "acme", "solver.py", str(folder)))


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "data.tar"
    with tarfile.open(path, "w") as file:
        file.add(__file__, arcname="a.py")
    return path


def test_a_function_of_a_provider_is_named_by_both_wherever_one_is_named(
    client: ServerlessClient, gateway: FakeGateway, solver: RunnableQiskitFunction, folder: Path
) -> None:
    client.upload(QiskitFunction("own", entrypoint="solver.py", working_dir=str(folder)))
    assert (solver.title, solver.provider, solver.name, solver.roles) == ("solver", "acme", "acme/solver", ("ADMIN",))
    assert client.function("acme/solver") == client.get("solver", "acme") == client.get("solver", provider="acme")
    assert [found.name for found in client.list()] == ["own"]
    assert [found.name for found in client.list(whose="providers")] == ["acme/solver"]
    assert [found.name for found in client.functions(whose="all")] == ["acme/solver", "own"]
    assert client.list(provider="beta") == []
    with pytest.raises(ValueError, match="own, providers, all"):
        client.list(whose="mine")
    for job in (client.run("acme/solver"), solver.run(), client.run(solver)):
        assert gateway.state.runs[-1].function_title == "acme/solver"
        assert (job.snapshot().provider, job.snapshot().function) == ("acme", "acme/solver")
    assert repr(solver).startswith("<RunnableQiskitFunction acme/solver,")


def test_a_disabled_function_raises_what_its_provider_says(
    client: ServerlessClient, gateway: FakeGateway, solver: RunnableQiskitFunction
) -> None:
    client.providers.disable(solver, "Use acme/better.")
    with pytest.raises(errors.FunctionDisabledError, match=r"Use acme/better\."):
        solver.run()
    client.providers.enable("acme/solver")
    assert solver.run().status() == "QUEUED"
    assert gateway.state.sharing.disabled == {}


def test_roles_are_granted_and_revoked(client: ServerlessClient, gateway: FakeGateway) -> None:
    made = client.providers.create("acme", ["me"])
    client.providers.create("beta", ["you"])
    assert (made.name, made.roles) == ("acme", ("ADMIN",))
    assert [provider.name for provider in client.providers.all()] == ["acme", "beta"]
    assert client.providers.get("beta").roles == ()
    with pytest.raises(errors.ProviderNotFoundError):
        client.providers.get("gamma")
    granted = client.providers.grant("acme/solver", "run", user="ada")
    assert (granted.name, granted.grantee, granted.role, granted.granted_by) == ("acme/solver", "user ada", "RUN", "me")
    client.providers.grant("acme", "LOGS", group="chemists")
    client.providers.grant("acme", "TRIAL", everyone=True)
    assert {(each.name, each.grantee, each.role) for each in client.providers.grants("acme")} == {
        ("acme/solver", "user ada", "RUN"),
        ("acme", "group chemists", "LOGS"),
        ("acme", "everyone", "TRIAL"),
    }
    client.providers.revoke("acme/solver", "RUN", user="ada")
    with pytest.raises(errors.GrantNotFoundError):
        client.providers.revoke("acme/solver", "RUN", user="ada")
    with pytest.raises(errors.RoleMissingError):
        client.providers.grant("gamma", "RUN", user="ada")
    with pytest.raises(ValueError, match="READ, RUN, TRIAL, LOGS, FILES, ADMIN"):
        client.providers.grant("acme", "OWN", user="ada")
    for nobody in ({}, {"user": "ada", "everyone": True}):
        with pytest.raises(ValueError, match="Say to whom"):
            client.providers.grant("acme", "RUN", **nobody)
    assert len(gateway.state.sharing.grants) == 2


def test_files_for_a_function_and_those_of_its_provider_are_apart(
    client: ServerlessClient, solver: RunnableQiskitFunction, tar: Path, tmp_path: Path
) -> None:
    assert json.loads(client.file_upload(tar, solver)) == {"message": "/data/data.tar"}
    assert json.loads(client.provider_file_upload(tar, "acme/solver", name="b.tar")) == {
        "message": "/function_data/b.tar"
    }
    assert (client.files(solver), client.provider_files(solver), client.files()) == (["data.tar"], ["b.tar"], [])
    assert (client.file_usage(solver).file_count, client.file_usage().file_count) == (1, 0)
    fetched = client.provider_file_download("b.tar", solver, "c.tar", tmp_path / "here")
    assert tarfile.is_tarfile(fetched)
    with pytest.raises(errors.StoredFileNotFoundError):
        client.file_download("b.tar", solver)
    client.provider_file_delete("b.tar", solver)
    client.file_delete("data.tar", solver)
    assert client.files(solver) == client.provider_files(solver) == []


def test_providers_see_jobs_as_they_were_listed_and_their_own_log(
    client: ServerlessClient, gateway: FakeGateway
) -> None:
    running = jobs_pb2.Job(
        job_id="j1", function_title="solver", provider="acme", owner="ada", status="RUNNING", trial=True, revision=3
    )
    running.state = types_pb2.JOB_STATE_RUNNING
    gateway.state.sharing.jobs["acme/solver"] = [running]
    gateway.state.sharing.logs["j1"] = b"one\ntwo\n"
    (job,) = client.provider_jobs("acme/solver", status="RUNNING")
    assert (job.status(), job.snapshot().owner, job.snapshot().trial) == ("RUNNING", "ada", True)
    assert (job.provider_logs(), job.provider_logs(tail=1)) == ("one\ntwo\n", "two\n")
    assert "".join(job.stream_provider_logs(follow=False, offset=4)) == "two\n"
    assert client.provider_jobs("acme/solver", status="DONE") == []
    with pytest.raises(errors.JobNotFoundError):
        job.result()
    gateway.state.change("j2", "QUEUED")
    with pytest.raises(errors.JobNotFoundError):
        client.job("j2").provider_logs()


def test_the_commands_of_a_provider(run: Run, gateway: FakeGateway, folder: Path, tar: Path, tmp_path: Path) -> None:
    sharing = gateway.state.sharing
    assert run("provider", "create", "acme", "--admin", "me", "--admin", "you")[0] == cli.OK
    assert sharing.providers == {"acme": ["me", "you"]}
    assert "acme      ADMIN" in run("provider", "ls")[1]
    assert "acme/solver, version" in run("upload", str(folder / "solver.py"), "--provider", "acme")[1]
    assert run("functions")[1] == "none\n"
    assert "acme/solver" in run("functions", "--shared")[1]
    assert json.loads(run("functions", "--provider", "acme", "--json")[1])[0]["roles"] == ["ADMIN"]
    shown = run("provider", "show", "acme")[1]
    assert "your roles for all of it are ADMIN" in shown
    assert "acme/solver" in shown
    assert run("provider", "disable", "acme/solver", "Closed for repairs.")[0] == cli.OK
    code, _, complaint = run("run", "acme/solver")
    assert (code, "Closed for repairs." in complaint) == (cli.FAILED, True)
    assert run("provider", "enable", "acme/solver")[0] == cli.OK
    assert run("run", "acme/solver")[0] == cli.OK
    assert "acme/solver" in run("jobs")[1]
    assert run("provider", "files", "put", "acme/solver", str(tar))[1] == "/function_data/data.tar\n"
    assert "data.tar" in run("provider", "files", "ls", "acme/solver")[1]
    assert run("files", "ls", "--function", "acme/solver")[1] == "none\n"
    assert run("provider", "files", "get", "acme/solver", "data.tar", "--into", str(tmp_path / "x"))[0] == cli.OK
    assert tarfile.is_tarfile(tmp_path / "x" / "data.tar")
    assert run("provider", "files", "rm", "acme/solver", "data.tar")[1] == "data.tar was deleted.\n"


def test_the_commands_about_jobs_and_who_did_what(run: Run, gateway: FakeGateway) -> None:
    sharing = gateway.state.sharing
    sharing.jobs["acme/solver"] = [jobs_pb2.Job(job_id="j1", owner="ada", status="DONE", create_time=NOW, trial=True)]
    sharing.logs["j1"] = b"one\ntwo\n"
    listed = run("provider", "jobs", "acme/solver")[1]
    assert all(word in listed for word in ("j1", "ada", "DONE", "trial"))
    assert json.loads(run("provider", "jobs", "acme/solver", "--json")[1])[0]["owner"] == "ada"
    assert run("provider", "jobs", "acme/solver", "--status", "SLEEPING")[0] == cli.USAGE
    assert run("provider", "logs", "j1", "--tail", "1")[1] == "two\n"
    assert run("provider", "logs", "j9")[0] == cli.FAILED
    for action in ("grant.remove", "grant.add"):
        sharing.audit.append(
            pb.AuditEntry(time=NOW, actor="me", action=action, provider="acme", subject="user ada", detail="RUN")
        )
    entries = json.loads(run("provider", "audit", "acme", "--json")[1])
    assert [entry["action"] for entry in entries] == ["grant.remove", "grant.add"]
    assert "user ada" in run("provider", "audit", "acme", "--limit", "1")[1]


def test_the_commands_of_grants_and_groups(run: Run, gateway: FakeGateway) -> None:
    sharing = gateway.state.sharing
    sharing.providers["acme"] = ["me"]
    assert (
        run("grant", "add", "acme/solver", "run", "--user", "ada")[1] == "RUN at acme/solver is granted to user ada.\n"
    )
    assert run("grant", "add", "acme", "READ", "--everyone")[1] == "READ at acme is granted to everyone.\n"
    assert run("grant", "add", "acme", "LOGS", "--group", "chemists")[0] == cli.OK
    listed = run("grant", "ls", "acme")[1]
    assert all(word in listed for word in ("user ada", "everyone", "group chemists"))
    assert run("grant", "rm", "acme/solver", "RUN", "--user", "ada")[0] == cli.OK
    assert run("grant", "rm", "acme/solver", "RUN", "--user", "ada")[0] == cli.FAILED
    for wrong, told in (
        (("grant", "add", "acme", "OWN", "--everyone"), "READ, RUN, TRIAL"),
        (("grant", "add", "acme", "RUN"), "--everyone"),
        (("grant", "add", "acme", "RUN", "--everyone", "--user", "ada"), "--everyone"),
    ):
        code, _, complaint = run(*wrong)
        assert (code, told in complaint) == (cli.USAGE, True), complaint
    assert run("groups", "create", "chemists")[0] == cli.OK
    assert "members" not in run("groups", "ls")[1], "who may not see members is not told that there are none"
    assert run("groups", "add", "chemists", "ada")[1] == "ada is in chemists.\n"
    assert "ada" in run("groups", "ls")[1]
    assert run("groups", "rm", "chemists", "ada")[0] == cli.OK
    assert sharing.groups == {"chemists": []}
