"""The command line against a gateway in this process: what it prints, and the exit codes scripts rely on."""

from __future__ import annotations

import json
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from fake_gateway import TOKEN, FakeGateway
from qonduit import cli

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("QONDUIT_ADDRESS", gateway.address)
    monkeypatch.setenv("QONDUIT_TOKEN", TOKEN)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qonduit", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def function(run: Run, tmp_path: Path) -> str:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "demo.py").write_text("print('hello')\n")
    assert run("upload", str(tmp_path / "source" / "demo.py"), "--env", "A=b")[0] == cli.OK
    return "demo"


def end_when_watched(gateway: FakeGateway, status: str, **fields: object) -> threading.Thread:
    def wait_and_end() -> None:
        gateway.state.await_watchers(1)
        (job_id,) = gateway.state.jobs
        gateway.state.logs[job_id] = b"hello\n"
        gateway.state.change(job_id, status, **fields)

    thread = threading.Thread(target=wait_and_end)
    thread.start()
    return thread


def test_run_prints_the_jobs_id_and_passes_arguments(run: Run, gateway: FakeGateway, function: str) -> None:
    code, out, _ = run("run", function, "--arg", "n=3", "--arg", "word=free text", "--mem", "1.5G", "--cpu", "0.5")
    (request,) = gateway.state.runs
    assert (code, out.strip()) == (cli.OK, "job-" + request.idempotency_key)
    assert json.loads(request.arguments_json) == {"n": 3, "word": "free text"}
    assert request.resources.mem_bytes == 3 * 2**29


@pytest.mark.parametrize(
    ("status", "reason", "code"),
    [
        ("DONE", 0, cli.OK),
        ("ERROR", 1, cli.FAILED),
        ("ERROR", 2, cli.LIMIT),
        ("ERROR", 3, cli.LIMIT),
        ("ERROR", 4, cli.INFRASTRUCTURE),
        ("ERROR", 11, cli.INFRASTRUCTURE),
        ("CANCELED", 10, cli.CANCELED),
    ],
)
@pytest.mark.usefixtures("function")
def test_the_exit_code_mirrors_the_job(run: Run, gateway: FakeGateway, status: str, reason: int, code: int) -> None:
    thread = end_when_watched(gateway, status, reason=reason)
    assert run("run", "demo", "--follow")[0] == code
    thread.join()


def test_listings_are_whole_lines_and_json_on_demand(run: Run, gateway: FakeGateway, function: str) -> None:
    title = function * 40
    gateway.state.change("job-1", "ERROR", function_title=title, reason=1)
    code, out, _ = run("jobs")
    assert code == cli.OK
    assert title in out
    assert "PROGRAM_ERROR" in out
    (job,) = json.loads(run("jobs", "--json")[1])
    assert (job["job_id"], job["status"]) == ("job-1", "ERROR")
    assert json.loads(run("functions", "--json")[1])[0]["title"] == "demo"
    assert json.loads(run("files", "ls", "--json")[1]) == []


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["run", "nothing-of-the-kind", "--arg", "x"], cli.USAGE, "NAME=VALUE"),
        (["run", "demo", "--mem", "lots"], cli.USAGE, "512M"),
        (["no-such-command"], cli.USAGE, "no-such-command"),
        (["jobs", "--status", "SLEEPING"], cli.USAGE, "SLEEPING"),
        (["job", "show", "nothing"], cli.FAILED, "nothing"),
        (["files", "put", "missing.tar"], cli.FAILED, "missing.tar: No such file"),
        (["files", "rm", "missing.tar"], cli.FAILED, "missing.tar"),
        (["upload", "missing.py"], cli.FAILED, "missing.py"),
        (["exec", "missing.py"], cli.FAILED, "missing.py: no such script"),
    ],
)
def test_bad_input_is_told_in_a_line(run: Run, arguments: list[str], code: int, text: str) -> None:
    got, _, complaint = run(*arguments)
    assert (got, text in complaint) == (code, True), complaint
    assert "Traceback" not in complaint


def test_no_server_is_said_with_what_to_do(run: Run, gateway: FakeGateway) -> None:
    gateway.stop()
    code, _, complaint = run("jobs")
    assert code == cli.INFRASTRUCTURE
    assert gateway.address in complaint
    assert "qonduit up" in complaint


def test_getting_a_file_never_replaces_one_unasked(
    run: Run, gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gateway.state.files["x.h5"] = b"theirs"
    (tmp_path / "x.h5").write_bytes(b"mine")
    assert run("files", "get", "x.h5")[0] == cli.FAILED
    assert (tmp_path / "x.h5").read_bytes() == b"mine"
    assert run("files", "get", "x.h5", "--force")[0] == cli.OK
    assert (tmp_path / "x.h5").read_bytes() == b"theirs"


def test_version_tells_both_sides(run: Run) -> None:
    assert run("version")[1].splitlines()[0].startswith("qonduit 0.")
    assert "server 0.1.0 at 127.0.0.1" in run("version")[1]
