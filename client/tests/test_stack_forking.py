"""Services of a stack are forked from one process that has imported what they share."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from qonduit.stack.forking import ForkedProcess, Forks
from stand_ins import SERVICES, Stack

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="services are forked on Linux alone")

_TELL = "import json, os, sys; print(json.dumps([dict(os.environ), os.getsid(0), sys.argv[1:], __name__]))"
_THREADED = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"


def parent_of(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # It has ended.
        return 0


def children() -> dict[int, list[str]]:
    """The command lines of this process's children."""
    mine = [process for process in Path("/proc").glob("[0-9]*") if parent_of(process) == os.getpid()]
    return {int(process.name): command_line(int(process.name)) for process in mine}


def command_line(pid: int) -> list[str]:
    """As `ps` would show it."""
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").replace("\0", " ").split(" ")


class Launching:
    """Launches programs of a line, and reads what they said."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.log = folder / "log"
        self.log.touch()
        self.forks = Forks({**os.environ, "PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1"}, shared=())

    async def __call__(self, code: str, environment: Mapping[str, str] = {}) -> ForkedProcess:
        (self._folder / "program.py").write_text(code)
        with self.log.open("ab") as log:
            return await self.forks.launch("program", environment, log.fileno())


@pytest.fixture
def launch(tmp_path: Path) -> Launching:
    return Launching(tmp_path)


async def test_a_forked_program_finds_what_python_m_would_give_it(launch: Launching) -> None:
    process = await launch(_TELL, {"SETTING": "é", "EMPTY": ""})
    assert await process.wait() == 0
    environment, session, arguments, name = json.loads(launch.log.read_text())
    assert environment == {"SETTING": "é", "EMPTY": ""}
    assert session == process.pid
    assert arguments == []
    assert name == "__main__"


async def test_its_end_is_told_as_any_childs(launch: Launching) -> None:
    assert await (await launch("import sys; sys.exit('wrong')")).wait() == 1
    assert await (await launch("import sys; sys.exit(2)")).wait() == 2
    assert await (await launch("no_such_name")).wait() == 1
    assert "NameError" in launch.log.read_text()
    waiting = await launch("import signal; signal.pause()")
    waiting.terminate()
    assert await waiting.wait() == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        waiting.terminate()


async def test_it_is_our_child_and_nothing_is_left_between(launch: Launching) -> None:
    first, second = await asyncio.gather(*(launch("import signal; signal.pause()") for _ in range(2)))
    assert {first.pid, second.pid} <= set(children())
    assert not any("qonduit.stack.fork_server" in command for command in children().values())
    for process in (first, second):
        process.terminate()
        await process.wait()


async def test_who_gives_up_waiting_leaves_no_program_behind(launch: Launching) -> None:
    before = set(children())
    launching = asyncio.create_task(launch("import signal; signal.pause()"))
    while not set(children()) - before:  # noqa: ASYNC110 - Nobody tells that a process has begun.
        await asyncio.sleep(0)
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    assert set(children()) <= before


def test_services_are_told_apart_by_their_command_lines(stack: Stack) -> None:
    stack.up()
    for name in SERVICES:
        pid = stack.process(name).pid
        assert command_line(pid)[1:] == ["-m", f"qonduit_{name}"]
        assert parent_of(Path(f"/proc/{pid}")) == stack.supervisor.pid


def test_services_that_cannot_be_forked_are_started_each_by_itself(stack: Stack) -> None:
    (Path(stack.environment["PYTHONPATH"]) / "qonduit_service_kit" / "__init__.py").write_text(_THREADED)
    done = stack.up()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("services share no memory, because they cannot be forked") == 1
    assert "has 2 threads" in done.stdout
    assert {service["state"] for service in stack.state["services"].values()} == {"ready"}
