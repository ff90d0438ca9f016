"""The zygote at work: it loads what programs will need, then forks a sandbox for each order."""

import gc
import importlib
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Final

from qonduit_worker.zygote import kernel, program, wire
from qonduit_worker.zygote.rooms import Rooms
from qonduit_worker.zygote.trees import Trees

_SIGNAL_NUMBERS: Final = 64


class TooManyThreadsError(RuntimeError):
    """Preloading left threads behind; children forked from such a process hang."""


class Nursery:
    """Serves the orders that come on one socket until the agent closes it."""

    def __init__(self, channel: socket.socket, start: wire.Start) -> None:
        self._channel = channel
        self._start = start
        self._makers = Rooms(start) if start.tier == "A" else Trees(start)

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
        gc.collect()
        gc.disable()
        gc.freeze()
        kernel.collapse_memory()

    def imported(self) -> list[str]:
        """The installed modules that programs find imported, outermost names only."""
        return sorted({name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names)

    def serve(self) -> None:
        """Fork a sandbox for each order; returns when the agent is gone."""
        wakeup, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
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
                self._serve_one(message[1])

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
