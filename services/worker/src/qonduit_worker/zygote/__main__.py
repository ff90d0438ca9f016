"""`python -m qonduit_worker.zygote FD START`: become a zygote that serves orders on the socket FD."""

import contextlib
import os
import signal
import socket
import sys
import traceback
from typing import Final, NoReturn

from qonduit_worker.zygote import kernel, layout, nursery, wire
from qonduit_worker.zygote.spawn import own_namespaces

_SLEEPER: Final = "/bin/sleep"


def main() -> NoReturn:
    """Start the zygote as the first process of its own pid namespace, and stay beside it as its parent."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    start = wire.Start.loads(sys.argv[2])
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != start.parent:
        os._exit(1)  # The agent died before the line above took effect.
    parent = os.getpid()
    try:
        if start.tier == "A":
            own_namespaces()
        pid = os.fork()
    except OSError:
        wire.send(channel, "failed", text=traceback.format_exc())
        os._exit(1)
    if pid == 0:
        nursery.live(channel, start, parent=parent, enter=_enter)
    channel.close()
    _stay(pid)


def _stay(pid: int) -> NoReturn:
    """Live as long as the agent does, in as little memory as can be: the zygote dies with this process."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.execve(_SLEEPER, [_SLEEPER, "infinity"], {})  # noqa: S606 - No shell is wanted.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    os._exit(0)


def _enter(start: wire.Start) -> None:
    sys.path += [path for path in start.python_path if path not in sys.path]
    if start.tier == "A":
        # The process beside this one keeps the machine's tree, from which it still has to start something.
        kernel.unshare(kernel.CLONE_NEWNS)
        layout.enter(extra=start.python_path, hidden=start.hidden)


if __name__ == "__main__":
    main()
