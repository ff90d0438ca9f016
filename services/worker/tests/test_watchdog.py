"""Where no control group counts memory, it is read from /proc: rightly, and only as often as it changes."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from qonduit_worker.sandbox import proctree
from qonduit_worker.sandbox.watchdog import Watchdog
from qonduit_worker.zygote.init import descendants

MIB = 1024 * 1024
ON_DEMAND = """
import sys
held = []
print("ready", flush=True)
for line in sys.stdin:
    held.append(bytearray(b"x" * int(line)))
    print("done", flush=True)
"""
FAMILY = """
import subprocess, sys, threading
code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
threading.Thread(target=subprocess.run, args=([sys.executable, "-c", code],)).start()
"""


@contextlib.contextmanager
def program(code: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has printed its first line, or one below it has."""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        running.stdout.readline()
        try:
            yield running
        finally:
            for pid in reversed(proctree.tree([running.pid])):
                with contextlib.suppress(ProcessLookupError):
                    subprocess.run(["kill", "-9", str(pid)], check=False, stderr=subprocess.DEVNULL)


def test_a_tree_has_the_children_of_every_thread() -> None:
    with program(FAMILY) as running:
        found = proctree.tree([running.pid])
        assert found[0] == running.pid
        assert len(found) == 3
        assert sorted(found[1:]) == sorted(descendants(running.pid))


def test_a_tree_of_a_process_that_is_gone_is_that_process() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    assert proctree.tree([gone.pid]) == [gone.pid]
    assert proctree.cpu_seconds([gone.pid]) == 0
    assert proctree.Holdings(0).look([gone.pid]) == 0


def wait_until_it_waits(pid: int) -> None:
    """Return once a process only waits for its input: until then it may still get pages."""
    while proctree._stat(pid)[0] != "S":
        time.sleep(0.001)  # It tells nobody.


def test_memory_is_told_as_it_grows_and_read_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    with program(ON_DEMAND) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        holdings = proctree.Holdings(0)
        wait_until_it_waits(running.pid)
        before = holdings.look([running.pid])
        with monkeypatch.context() as unreadable:
            unreadable.setattr(proctree, "_private_bytes", pytest.fail)
            assert holdings.look([running.pid]) == before
        running.stdin.write(f"{40 * MIB}\n")
        running.stdin.flush()
        running.stdout.readline()
        assert 40 * MIB <= holdings.look([running.pid]) - before < 45 * MIB


class Held:
    """A sandbox, played by the test."""

    def __init__(self, mem_bytes: int) -> None:
        self.mem_bytes = mem_bytes
        self.looks = 0
        self.seen: asyncio.Queue[int] = asyncio.Queue()

    def look(self) -> int:
        self.looks += 1
        if self.mem_bytes < 0:
            raise ValueError("unreadable")
        return self.mem_bytes

    def saw(self, mem_bytes: int) -> None:
        self.seen.put_nowait(mem_bytes)


async def test_who_is_watched_is_told_at_once_and_again_and_again() -> None:
    watchdog = Watchdog()
    sandbox = Held(7)
    watchdog.watch(sandbox)
    async with asyncio.timeout(60):
        for _ in range(4):
            assert await sandbox.seen.get() == 7
    await watchdog.stop()
    await watchdog.stop()
    looks = sandbox.looks
    other = Held(9)
    watchdog.watch(other)
    async with asyncio.timeout(60):
        for _ in range(3):
            assert await other.seen.get() == 9
    assert sandbox.looks == looks, "nobody looks after those that were forgotten"
    await watchdog.stop()


async def test_what_cannot_be_looked_at_does_not_end_the_watch() -> None:
    watchdog = Watchdog()
    unreadable, sandbox = Held(-1), Held(7)
    watchdog.watch(unreadable)
    watchdog.watch(sandbox)
    async with asyncio.timeout(60):
        for _ in range(3):
            assert await sandbox.seen.get() == 7
    assert unreadable.seen.empty()
    await watchdog.stop()
