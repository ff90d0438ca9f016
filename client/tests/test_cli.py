"""The command line against a gateway in this process: what it prints, and the exit codes scripts rely on."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
import qonduit
from qonduit import cli
from qonduit_api.v1 import jobs_pb2

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Run
    from fake_gateway import FakeGateway


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


def test_a_run_beyond_the_users_jobs_says_so_and_has_an_exit_code_of_its_own(
    run: Run, gateway: FakeGateway, function: str
) -> None:
    gateway.state.active_job_limit = 1
    assert run("run", function)[0] == cli.OK
    assert run("run", function) == (cli.LIMIT, "", "qonduit: ada may have 1, and has 1.\n")


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
        (["run", "demo", "--time-limit", "-1"], cli.USAGE, "time_limit_s must not be negative"),
        (["run", "demo", "--qpu-budget", "-1"], cli.USAGE, "qpu_budget_s must not be negative"),
        (["run", "demo", "--cpu", "nan"], cli.USAGE, "cpu must not be negative, and is nan"),
        (["run", "demo", "--mem", "512"], cli.USAGE, "512M, 4G or 4GiB"),
        (["upload", "/"], cli.USAGE, "is a folder"),
        (["exec", "missing.py"], cli.FAILED, "missing.py: no such script"),
    ],
)
def test_bad_input_is_told_in_a_line(run: Run, arguments: list[str], code: int, text: str) -> None:
    got, _, complaint = run(*arguments)
    assert (got, text in complaint) == (code, True), complaint
    assert "Traceback" not in complaint


@pytest.mark.parametrize("content", ["[1, 2]", "no JSON"])
def test_a_file_of_arguments_holds_an_object(run: Run, tmp_path: Path, content: str) -> None:
    (tmp_path / "arguments.json").write_text(content)
    code, _, complaint = run("run", "demo", "--args-file", str(tmp_path / "arguments.json"))
    assert code == cli.USAGE
    assert "arguments.json" in complaint
    assert "JSON" in complaint


def test_help_tells_the_servers_defaults_and_the_data_folder(run: Run) -> None:
    told = " ".join(run("run", "--help")[1].split())
    assert "the server's, 1 cpu" in told
    assert "the server's, 2 GiB" in told
    for command in ("up", "down", "status", "logs", "doctor"):
        assert "$QONDUIT_HOME" in run(command, "--help")[1]


@pytest.mark.parametrize(("text", "size"), [("512M", 2**29), ("4G", 2**32), ("4GiB", 2**32), ("33554432", 2**25)])
def test_memory_with_and_without_unit(run: Run, gateway: FakeGateway, function: str, text: str, size: int) -> None:
    assert run("run", function, "--mem", text)[0] == cli.OK
    assert gateway.state.runs[0].resources.mem_bytes == size


def test_what_stands_behind_a_script_is_the_scripts(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys, qiskit_serverless\nprint(qiskit_serverless.__version__, sys.argv[1:])\n")
    arguments = ["--help", "-h", "--data-dir", "x", "--", "y"]
    command = [sys.executable, "-m", "qonduit.cli", "exec", str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{qonduit.__version__} {arguments}"


def test_a_jobs_first_characters_are_enough_if_no_other_has_them(run: Run, gateway: FakeGateway) -> None:
    gateway.state.change("abcdef-1", "RUNNING")
    assert "abcdef-1" in run("job", "show", "abcdef")[1]
    gateway.state.change("abcdef-2", "RUNNING")
    code, _, complaint = run("job", "show", "abcdef")
    assert code == cli.FAILED
    assert "abcdef-1" in complaint
    assert "abcdef-2" in complaint
    assert "abcdef-2" in run("job", "show", "abcdef-2")[1]
    assert run("job", "show", "abcde")[0] == cli.FAILED


@pytest.mark.usefixtures("function")
def test_a_programs_traceback_is_shown_once(run: Run, gateway: FakeGateway) -> None:
    trace = "Traceback (most recent call last):\n  line 1\nValueError: no good\n"
    gateway.state.log_of_any = trace.encode()
    thread = end_when_watched(gateway, "ERROR", reason=1, error_text=trace)
    code, out, complaint = run("run", "demo", "--follow")
    thread.join()
    assert code == cli.FAILED
    assert out.count("Traceback") == 1
    assert "Traceback" not in complaint
    assert "ValueError: no good" in complaint


def test_what_was_deleted_is_told_when_a_later_one_fails(run: Run, gateway: FakeGateway) -> None:
    gateway.state.files["a.h5"] = b"x"
    code, out, complaint = run("files", "rm", "a.h5", "b.h5")
    assert (code, out) == (cli.FAILED, "a.h5 was deleted.\n")
    assert "b.h5" in complaint


@pytest.mark.parametrize("more", [[], ["--tail", "3"]])
def test_the_log_of_a_task_that_there_is_not_is_an_error(run: Run, gateway: FakeGateway, more: list[str]) -> None:
    gateway.state.change("j", "DONE")
    tasks = [jobs_pb2.Task(number=number, task_id=f"t{number}", name="square") for number in range(5)]
    gateway.state.set_tasks("j", *tasks, done=5)
    gateway.state.logs["j"] = b"[task 1 square] one\n"
    for chosen, printed in (("1", "[task 1 square] one\n"), ("square", "[task 1 square] one\n"), ("4", "")):
        assert run("job", "logs", "j", "--task", chosen, *more) == (cli.OK, printed, "")
    for chosen in ("99", "cube"):
        code, out, complaint = run("job", "logs", "j", "--task", chosen, *more)
        assert (code, out) == (cli.FAILED, "")
        assert f"j has no task {chosen}; `qonduit tasks j`" in complaint


def test_empty_lists_say_none(run: Run) -> None:
    assert [run(*command)[1] for command in (("jobs",), ("functions",), ("files", "ls"))] == ["none\n"] * 3


def test_no_server_is_said_with_what_to_do(run: Run, gateway: FakeGateway) -> None:
    gateway.stop()
    code, _, complaint = run("jobs")
    assert code == cli.INFRASTRUCTURE
    assert gateway.address in complaint
    assert "qonduit up" in complaint


def test_a_port_that_speaks_http_is_told_apart_from_one_where_nobody_answers(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("QONDUIT_ADDRESS", f"127.0.0.1:{server.server_port}")
        try:
            code, _, complaint = run("jobs")
        finally:
            server.shutdown()
            thread.join()
    assert code == cli.INFRASTRUCTURE
    assert "answers, but not by gRPC" in complaint


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


@pytest.mark.parametrize("into", ["notes.txt", "notes.txt/below"])
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_file_to_fetch_into_is_told_to_be_no_folder(
    run: Run, gateway: FakeGateway, tmp_path: Path, into: str, force: list[str]
) -> None:
    gateway.state.files["x.h5"] = b"content"
    (tmp_path / "notes.txt").write_text("mine")
    code, _, complaint = run("files", "get", "x.h5", "--into", str(tmp_path / into), *force)
    assert (code, complaint) == (cli.FAILED, f"qonduit: {tmp_path / into} is no folder, and --into wants one.\n")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_names_that_are_long_are_fetched_and_those_too_long_told(
    run: Run, gateway: FakeGateway, tmp_path: Path
) -> None:
    name = "x" * 252 + ".h5"
    gateway.state.files[name] = b"content"
    assert run("files", "get", name, "--into", str(tmp_path)) == (cli.OK, f"{tmp_path / name}\n", "")
    code, _, complaint = run("files", "get", name, "--into", str(tmp_path / name.replace("x", "xx")))
    assert code == cli.FAILED
    assert "File name too long" in complaint
    assert "Traceback" not in complaint


def test_version_tells_both_sides(run: Run) -> None:
    assert run("version")[1].splitlines()[0].startswith("qonduit 0.")
    assert "server 0.1.0 at 127.0.0.1" in run("version")[1]
    assert json.loads(run("version", "--json")[1])["server"] == "0.1.0"


def test_version_without_a_server_is_no_error(run: Run, gateway: FakeGateway) -> None:
    gateway.stop()
    code, out, _ = run("version")
    assert code == cli.OK
    assert "No Qonduit server answers" in out
    assert json.loads(run("version", "--json")[1])["server"] is None
    assert run("--version")[:2] == (cli.OK, f"qonduit {qonduit.__version__}\n")
