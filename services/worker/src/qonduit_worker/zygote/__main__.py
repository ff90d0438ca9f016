"""`python -m qonduit_worker.zygote FD START`: become a zygote that serves orders on the socket FD."""

import os
import signal
import socket
import sys
import traceback
from typing import NoReturn

from qonduit_worker.zygote import kernel, layout, wire
from qonduit_worker.zygote.nursery import Nursery
from qonduit_worker.zygote.spawn import own_namespaces


def main() -> NoReturn:
    """Start the zygote as the first process of its own pid namespace, and wait beside it for its end."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    start = wire.Start.loads(sys.argv[2])
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != start.parent:
        os._exit(1)  # The agent died before the line above took effect.
    try:
        if start.tier == "A":
            own_namespaces()
        pid = os.fork()
    except OSError:
        wire.send(channel, "failed", text=traceback.format_exc())
        os._exit(1)
    if pid == 0:
        _zygote(channel, start)
    _wait_for(pid, channel)


def _wait_for(pid: int, channel: socket.socket) -> NoReturn:
    pidfd = os.pidfd_open(pid)
    wire.send(channel, "hello", descriptors=(pidfd,), pid=pid)
    channel.close()
    os.waitpid(pid, 0)
    os._exit(0)


def _zygote(channel: socket.socket, start: wire.Start) -> NoReturn:
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        sys.path += [path for path in start.python_path if path not in sys.path]
        if start.tier == "A":
            layout.enter(extra=start.python_path, hidden=start.hidden)
        else:
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        nursery = Nursery(channel, start)
        nursery.prepare()
        wire.send(channel, "ready", modules=nursery.imported())
        nursery.serve()
    except BaseException:  # noqa: BLE001 - whatever happened is told to the agent.
        wire.send(channel, "failed", text=traceback.format_exc())
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
