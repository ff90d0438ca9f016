"""A program in a sandbox is an ordinary Python program: its output, its end, its surroundings."""

import asyncio
import json
import signal
import subprocess
import sys

import pytest
from qonduit_worker.sandbox import PORT_PLACEHOLDER
from qonduit_worker.sandbox.testing import Sandboxes


async def test_the_two_streams_keep_one_order(sandboxes: Sandboxes) -> None:
    code = """
        import os, subprocess, sys
        for number in range(200):
            print("out", number, end="\\n" if number % 3 else " ")
            print("err", number, file=sys.stderr)
        sys.stdout.flush()
        os.write(2, b"raw\\n")
        subprocess.run(["/bin/sh", "-c", "echo child; echo child-err >&2"], check=True)
        print("last", end="")
    """
    output, end = await sandboxes.run(code)
    words = output.split()
    expected = [word for number in range(200) for word in ("out", str(number), "err", str(number))]
    assert words == [*expected, "raw", "child", "child-err", "last"]
    assert end.exit_code == 0


async def test_lines_arrive_while_the_program_runs(sandboxes: Sandboxes) -> None:
    sandbox = await sandboxes.fork("print('first'); import time; time.sleep(600)")
    assert await sandbox.output.readline() == b"first\n"
    sandbox.kill()
    assert (await sandbox.wait()).signal == signal.SIGKILL
    assert await sandbox.output.read() == b""


@pytest.mark.parametrize(
    ("code", "exit_code", "printed"),
    [
        ("pass", 0, ""),
        ("import sys; sys.exit()", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('no such backend')", 1, "no such backend\n"),
        ("import os; os._exit(7)", 7, ""),
        ("import atexit; atexit.register(print, 'bye')", 0, "bye\n"),
        (
            "import threading, time; threading.Thread(target=lambda: (time.sleep(0.05), print('late'))).start()",
            0,
            "late\n",
        ),
    ],
)
async def test_exit_codes(sandboxes: Sandboxes, code: str, exit_code: int, printed: str) -> None:
    output, end = await sandboxes.run(code)
    assert (output, end.exit_code, end.signal) == (printed, exit_code, None)
    assert not end.oom_killed


async def test_an_exception_is_a_traceback_and_exit_code_1(sandboxes: Sandboxes) -> None:
    output, end = await sandboxes.run("def f():\n    raise ValueError('wrong angle')\nf()")
    assert end.exit_code == 1
    assert output.startswith("Traceback (most recent call last):")
    assert output.endswith("ValueError: wrong angle\n")


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL", "SIGTERM", "SIGABRT"])
async def test_the_signal_that_ends_a_program_is_told(sandboxes: Sandboxes, name: str) -> None:
    _output, end = await sandboxes.run(f"import os, signal; os.kill(os.getpid(), signal.{name})")
    assert (end.exit_code, end.signal, end.oom_killed) == (None, getattr(signal, name), False)


async def test_terminate_reaches_the_program_which_may_clean_up(sandboxes: Sandboxes) -> None:
    code = """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
        print("ready")
        time.sleep(600)
    """
    sandbox = await sandboxes.fork(code)
    await sandbox.output.readline()
    sandbox.terminate()
    assert (await sandbox.wait()).exit_code == 9
    sandbox.terminate()
    sandbox.kill()
    await sandbox.output.read()


async def test_the_surroundings(sandboxes: Sandboxes) -> None:
    code = """
        import getpass, json, os, socket, sys, tempfile
        environment = dict(os.environ)
        del environment["CODE"]
        print(json.dumps({
            "environment": environment, "cwd": os.getcwd(), "host": socket.gethostname(), "argv": sys.argv,
            "main": sys.modules["__main__"].__dict__.get("__file__"), "user": getpass.getuser(),
            "stdin": sys.stdin.read(), "tmp": tempfile.gettempdir(), "root": sorted(os.listdir("/")),
            "open": sorted(map(int, os.listdir("/proc/self/fd")))[:3], "pids": os.listdir("/proc").count("1"),
            "data": os.access("/data", os.W_OK), "null": open("/dev/null").read(), "random": len(os.urandom(8)),
        }))
    """
    output, end = await sandboxes.run(code, environment={"A": "b", "URL": f"http://127.0.0.1:{PORT_PLACEHOLDER}/"})
    assert end.exit_code == 0, output
    told = json.loads(output)
    assert told["environment"].pop("URL").startswith("http://127.0.0.1:")
    assert told["environment"] == {"A": "b"}
    assert (told["cwd"], told["host"], told["argv"], told["main"]) == ("/job", "qonduit", [""], None)
    assert (told["user"], told["stdin"], told["tmp"]) == ("qonduit", "", "/tmp")  # noqa: S108
    assert told["open"] == [0, 1, 2]
    assert told["data"]


async def test_forks_do_not_share_random_numbers(sandboxes: Sandboxes) -> None:
    outputs = [(await sandboxes.run("import random; print(random.random())"))[0] for _ in range(3)]
    assert len(set(outputs)) == 3


async def test_sets_have_the_same_order_in_every_sandbox(sandboxes: Sandboxes) -> None:
    code = "print(hash('qonduit'))"
    steady = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, env={"PYTHONHASHSEED": "0"}, stdout=subprocess.PIPE
    )
    output, _end = await sandboxes.run(code)
    assert output.encode() == (await steady.communicate())[0]


async def test_big_environments_and_many_lines_pass(sandboxes: Sandboxes) -> None:
    output, end = await sandboxes.run(
        "import os\nfor n in range(20000): print(n, len(os.environ['BIG']))", environment={"BIG": "x" * 1_000_000}
    )
    assert end.exit_code == 0
    assert output.splitlines()[-1] == "19999 1000000"


async def test_what_a_program_writes_is_on_the_host_and_ours_to_read(sandboxes: Sandboxes) -> None:
    spec = sandboxes.spec("open('/data/result.txt', 'w').write('42'); open('here.txt', 'w').write('job')")
    (spec.directory / "data" / "given.txt").write_text("given")
    (spec.directory / "job" / "folder").mkdir()
    sandbox = await sandboxes.zygote.fork(spec)
    assert await sandbox.output.read() == b""
    assert (await sandbox.wait()).exit_code == 0
    assert (spec.directory / "data" / "result.txt").read_text() == "42"
    assert (spec.directory / "job" / "here.txt").read_text() == "job"
