"""The first process of a sandbox without a pid namespace: it reaps what is orphaned, and reports the end.

It is a subreaper, and ends by itself what a namespace would end.
"""

import os
import resource
import select
import signal
import socket
from typing import Final, NoReturn

from qonduit_worker.zygote import wire

_SIGNAL_NUMBERS: Final = 64


class Init:
    """Watches one program on behalf of the agent at the other end of `control`."""

    def __init__(self, control: socket.socket, *, uid: int | None) -> None:
        self._control = control
        self._uid = uid
        self._wakeup, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)

    def watch(self, program: int) -> NoReturn:
        """Stay until the program ends, the agent asks for the end, or the agent is gone."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        status: int | None = None
        while status is None:
            ready = {descriptor for descriptor, _event in poll.poll()}
            if self._wakeup in ready and signal.SIGTERM in os.read(self._wakeup, _SIGNAL_NUMBERS):
                break  # The zygote is gone.
            status = _reap(program)
            if status is None and self._control.fileno() in ready and not self._obey(program):
                break
        self._end(status)

    def _obey(self, program: int) -> bool:
        try:
            command = self._control.recv(64)
        except ConnectionError:
            return False
        if command == wire.TERMINATE:
            os.kill(program, signal.SIGTERM)
            return True
        return False

    def _end(self, status: int | None) -> NoReturn:
        self._kill_rest()
        if status is not None:
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu_s = used.ru_utime + used.ru_stime
            wire.send(self._control, "exit", status=status, cpu_s=cpu_s)
        os._exit(0)

    def _kill_rest(self) -> None:
        """End every process of this sandbox where no namespace does it, however it hid itself."""
        while True:
            if self._uid is not None:
                _kill_user(self._uid)
            for pid in descendants(os.getpid()):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            try:
                # Orphans come to this process, so that nothing is left once it has no children.
                os.wait()
            except ChildProcessError:
                return


def _reap(program: int) -> int | None:
    found: int | None = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == program:
            found = status


def _kill_user(uid: int) -> None:
    """Kill all processes of a user at once: none of them can be missed by forking faster than one looks."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setresuid(uid, uid, uid)
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def descendants(root: int) -> list[int]:
    """The processes below `root`, as far as /proc tells."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            parent = _parent(entry.name)
            if parent is not None:
                children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    pending = [root]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def _parent(pid: str) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - read often, on the hot path of a kill.
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return None
