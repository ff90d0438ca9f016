"""The process that services are forked from: it imports once what they share, so that it is in memory once.

    python -P -m qonduit.stack.fork_server FD SUPERVISOR_PID [MODULE ...]

It has one thread, starts nothing, opens nothing and holds no secret but its environment; whatever a service begins,
it begins in its own process. A service becomes the supervisor's own child, so that this process is needed only
while services start: what all of them have written to would otherwise be kept here for nobody.

The socket FD carries requests one way, each with a file of JSON in memory and a log. The other way go `ready` or
`unfit`, then for each request `forked`, told by the service itself once the supervisor is its parent, or `refused`.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_ARGUMENTS_BEGIN, _ARGUMENTS_END = 45, 46
"""Where /proc/self/stat says, after the name, which memory holds the command line."""
_REQUEST_BYTES: Final = 256


@dataclass(frozen=True, slots=True)
class Request:
    """A service to be."""

    number: int
    module: str
    environment: dict[str, str]
    log: int


def main() -> None:
    """Import, serve, and become the service in every process that was forked."""
    channel, supervisor, modules = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), sys.argv[3:]
    channel.set_inheritable(False)
    libc = ctypes.CDLL(None)
    _die_with(supervisor, signal.SIGKILL, libc)
    _load(modules)
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        _tell(channel, "unfit", text=f"what they are forked from has {threads} threads, and must have one")
        return
    _tell(channel, "ready")
    request = _serve(channel)
    if request is not None:
        _die_with(supervisor, signal.SIGTERM, libc)
        os.setsid()
        with channel:
            _tell(channel, "forked", number=request.number, pid=os.getpid())
        _prepare(request, libc)
        runpy.run_module(request.module, run_name="__main__", alter_sys=True)


def _serve(channel: socket.socket) -> Request | None:
    """Return in each process that was forked, with what it is to be; None in this one, once nobody asks any more."""
    while (request := _next(channel)) is not None:
        try:
            if _fork_and_hand_over():
                return request
        except OSError as error:
            _tell(channel, "refused", number=request.number, text=str(error))
        os.close(request.log)
    return None


def _next(channel: socket.socket) -> Request | None:
    try:
        told, descriptors, _, _ = socket.recv_fds(channel, _REQUEST_BYTES, 2, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return None
    if not told:
        return None
    memory, log = descriptors
    with open(memory, "rb") as file:  # noqa: PTH123 - It has no path.
        return Request(**json.loads(told), **json.loads(file.read()), log=log)


def _fork_and_hand_over() -> bool:
    """Fork a process and make it the supervisor's child; true in that process.

    The supervisor is a subreaper: it is given the children of those below it that end. So there is a process
    between, which ends at once, and the other waits for that.

    Raises:
        OSError: The system refused.
    """
    waiting, told = os.pipe2(os.O_CLOEXEC)
    between = os.fork()
    if between == 0:
        os.close(told)
        try:
            forked = os.fork()
        except OSError as error:
            os._exit(error.errno or 1)
        if forked:
            os._exit(0)
        if not os.read(waiting, 1):
            os._exit(1)  # The process that was to say so has died.
        os.close(waiting)
        return True
    os.close(waiting)
    _, status = os.waitpid(between, 0)
    with contextlib.suppress(BrokenPipeError):
        os.write(told, b".")
    os.close(told)
    if code := os.waitstatus_to_exitcode(status):
        raise OSError(code, os.strerror(code))
    return False


def _tell(channel: socket.socket, kind: str, **fields: str | int) -> None:
    """Send a message; where nobody waits for it any more, nobody wants this process."""
    try:
        channel.send(json.dumps({"kind": kind, **fields}).encode())
    except OSError:
        sys.exit(1)


def _load(modules: list[str]) -> None:
    gc.disable()
    for module in modules:
        with contextlib.suppress(ImportError):  # A service that needs it will say so.
            importlib.import_module(module)
    gc.collect()
    # A collection writes into every object that it looks at, so those that are shared are to be left alone.
    gc.freeze()
    gc.enable()


def _die_with(parent: int, number: signal.Signals, libc: ctypes.CDLL) -> None:
    libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def _prepare(request: Request, libc: ctypes.CDLL) -> None:
    """Make this process what it would be if it had been started with `python -m`."""
    for descriptor in (1, 2):
        os.dup2(request.log, descriptor)
    os.close(request.log)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.argv[:] = [request.module]
    _show_as(request.module, libc)


def _show_as(module: str, libc: ctypes.CDLL) -> None:
    """Let `ps` and `pgrep -f` tell one service from another: the kernel shows the memory of the command line."""
    libc.prctl(_PR_SET_NAME, module.removeprefix("qonduit_").encode(), 0, 0, 0)
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = int(fields[_ARGUMENTS_BEGIN]), int(fields[_ARGUMENTS_END])
    shown = f"{sys.executable} -m {module}".encode()
    if begin and len(shown) + 1 < end - begin:
        ctypes.memset(begin, 0, end - begin)
        ctypes.memmove(begin, shown, len(shown))
        # That the last byte isn't zero tells the kernel that a program wrote here: it shows the text as it is.
        ctypes.memset(end - 1, 1, 1)


if __name__ == "__main__":
    main()
