"""The zygote at work: it loads what programs will need, then forks a sandbox for each order."""

import gc
import importlib
import itertools
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NoReturn

from qonduit_worker.zygote import kernel, program, wire
from qonduit_worker.zygote.rooms import Rooms
from qonduit_worker.zygote.spawn import fork_within
from qonduit_worker.zygote.trees import Trees

_SIGNAL_NUMBERS: Final = 64


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a zygote leaves to those that are forked from it, so that they need not find it out again.

    To look at every module is to write into most of the memory that both share, for Python counts who looks.
    """

    makers: Rooms | Trees
    imported: tuple[str, ...]
    last_module: str


class TooManyThreadsError(RuntimeError):
    """Preloading left threads behind; children forked from such a process hang."""


def live(
    channel: socket.socket,
    start: wire.Start,
    *,
    parent: int,
    enter: Callable[[wire.Start], None] | None = None,
    inherited: Inheritance | None = None,
) -> NoReturn:
    """Be a zygote from its first line to its end, in a process that was just forked.

    Args:
        channel: The socket to the agent.
        start: What to be.
        parent: The process that it was forked from, which it dies with.
        enter: What makes its file tree; None where it stays in its parent's.
        inherited: What the zygote knew that it was forked from, if it was.
    """
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() not in {0, parent}:  # 0 in a pid namespace of its own.
            os._exit(1)  # The parent died before the line above took effect.
        pidfd = os.pidfd_open(os.getpid())
        wire.send(channel, "hello", descriptors=(pidfd,))
        os.close(pidfd)
        if enter is not None:
            enter(start)
        if start.tier != "A":
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        nursery = Nursery(channel, start, inherited)
        nursery.prepare()
        wire.send(channel, "ready", modules=nursery.imported)
        nursery.serve()
    except BaseException:  # noqa: BLE001 - whatever happened is told to the agent.
        wire.send(channel, "failed", text=traceback.format_exc())
    finally:
        os._exit(1)


class Nursery:
    """Serves the orders that come on one socket until the agent closes it."""

    def __init__(self, channel: socket.socket, start: wire.Start, inherited: Inheritance | None = None) -> None:
        self.imported: tuple[str, ...] = ()
        """The installed modules that programs find imported, outermost names only; known once it is prepared."""
        self._channel = channel
        self._start = start
        self._inherited = inherited
        self._makers = inherited.makers if inherited else Rooms(start) if start.tier == "A" else Trees(start)
        self._wakeup: tuple[int, int] | None = None

    def prepare(self) -> None:
        """Import and warm up, and make sure that forking is safe after it.

        Raises:
            TooManyThreadsError: A module started a thread.
            Exception: Whatever an import or the warm-up raised.
        """
        os.chdir("/")
        for name in self._start.preload:
            importlib.import_module(name)
        if self._start.warm is not None:
            program.resolve(self._start.warm)()
        threads = len(list(Path("/proc/self/task").iterdir()))
        if threads != 1:
            raise TooManyThreadsError(f"The zygote has {threads} threads after preloading; it must have one.")
        self.imported = self._find_imported()
        gc.collect()
        gc.disable()
        gc.freeze()
        if not self._inherited:  # What is shared with the zygote that this one came from would be copied.
            kernel.tidy_memory()

    def _find_imported(self) -> tuple[str, ...]:
        known, last = (self._inherited.imported, self._inherited.last_module) if self._inherited else ((), "")
        later = itertools.takewhile(lambda name: name != last, reversed(sys.modules))
        return tuple(sorted({*known, *(name.partition(".")[0] for name in later)} - sys.stdlib_module_names))

    def serve(self) -> None:
        """Fork a sandbox for each order; returns when the agent is gone."""
        wakeup, write_end = self._wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(wakeup, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _event in poll.poll()}
            if wakeup in ready:
                os.read(wakeup, _SIGNAL_NUMBERS)
                self._reap()
            if self._channel.fileno() in ready:
                message = wire.receive(self._channel)
                if message is None:
                    return
                fields, descriptors = message
                if fields["kind"] == "zygote":
                    self._fork_zygote(fields["warm"], descriptors[0])
                else:
                    self._serve_one(descriptors)

    def _fork_zygote(self, warm: str | None, descriptor: int) -> None:
        with socket.socket(fileno=descriptor) as channel:
            parent = os.getpid()
            try:
                pid = fork_within() if self._start.tier == "A" else os.fork()
            except OSError:
                wire.send(channel, "failed", text=traceback.format_exc())
                return
            if pid == 0:
                self._let_go()
                inherited = Inheritance(self._makers, self.imported, next(reversed(sys.modules)))
                live(channel, replace(self._start, preload=(), warm=warm), parent=parent, inherited=inherited)

    def _let_go(self) -> None:
        """Close what belongs to the zygote that this process was forked from: its end must be seen by the agent."""
        program.default_signals()
        self._channel.close()
        self._makers.begin_anew()
        for end in self._wakeup or ():
            os.close(end)

    def _serve_one(self, descriptors: list[int]) -> None:
        memory, control, output, *cgroups = descriptors
        order = wire.Order.from_memory(memory)
        channel = socket.socket(fileno=control)
        try:
            kept = self._makers.make(order, channel, output, cgroups)
        except OSError as error:
            wire.send(channel, "failed", text=str(error))
            kept = False
        if not kept:
            channel.close()
        for descriptor in (output, *cgroups):
            os.close(descriptor)

    def _reap(self) -> None:
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._makers.ended(pid, status, used)
