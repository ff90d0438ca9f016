"""The zygote at work: it loads what programs will need, then forks a sandbox for each order."""

import gc
import importlib
import os
import signal
import socket
import traceback
from pathlib import Path
from typing import NoReturn

from qonduit_worker.zygote import init, isolation, kernel, layout, program, seccomp, wire


class TooManyThreadsError(RuntimeError):
    """Preloading left threads behind; children forked from such a process hang."""


class Nursery:
    """Serves the orders that come on one socket until the agent closes it."""

    def __init__(self, channel: socket.socket, start: wire.Start) -> None:
        self._channel = channel
        self._start = start
        self._own_rooms = start.tier == "A"
        self._filter = seccomp.build(own_network=self._own_rooms)
        self._readable = [] if self._own_rooms else layout.readable_folders(start.python_path)
        shown = layout.interpreter_folders(start.python_path)
        self._below_tmp = [path for path in shown if path.startswith(layout.TMP + "/")]
        self._pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

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
        # Children are reaped by the kernel; the agent learns of each end by a pidfd.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        gc.collect()
        gc.disable()
        gc.freeze()

    def serve(self) -> None:
        """Fork a sandbox for each order; returns when the agent is gone."""
        while (message := wire.receive(self._channel)) is not None:
            _fields, (memory, control, output, *cgroups) = message
            with socket.socket(fileno=control) as channel:
                self._serve_one(memory, channel, output, cgroups)
            for descriptor in (memory, output, *cgroups):
                os.close(descriptor)

    def _serve_one(self, memory: int, control: socket.socket, output: int, cgroups: list[int]) -> None:
        try:
            pid = self._fork()
        except OSError as error:
            wire.send(control, "failed", text=str(error))
            return
        if pid == 0:
            self._sandbox(memory, control, output, cgroups)
        pidfd = os.pidfd_open(pid)
        try:
            wire.send(control, "forked", descriptors=(pidfd,))
        finally:
            os.close(pidfd)

    def _fork(self) -> int:
        if not self._own_rooms:
            return os.fork()
        kernel.unshare(kernel.CLONE_NEWPID)
        pid = -1
        try:
            pid = os.fork()
        finally:
            if pid != 0:
                # The next child gets a namespace of its own only from a process whose children have none.
                kernel.setns(self._pid_namespace, kernel.CLONE_NEWPID)
        return pid

    def _sandbox(self, memory: int, control: socket.socket, output: int, cgroups: list[int]) -> NoReturn:
        try:
            self._channel.close()
            os.setsid()
            # Without namespaces the first process must end its tree itself, so it is asked to.
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL if self._own_rooms else signal.SIGTERM)
            # The program may have the same user as this process, and must not look into it.
            kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
            order = wire.Order.from_memory(memory)
            isolation.join_cgroups(cgroups)
            listener = isolation.enter_room(order, self._below_tmp) if self._own_rooms else None
            watcher = init.Init(control, own_pids=self._own_rooms, uid=order.uid)
            if not self._own_rooms:
                kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
            port = order.port if listener is None else listener.getsockname()[1]
            descriptors = () if listener is None else (listener.fileno(),)
            wire.send(control, "started", descriptors=descriptors, port=port)
            if listener is not None:
                listener.close()
            pid = os.fork()
            if pid == 0:
                self._program(order, port, output)
            os.close(output)
            self._settle(order)
            watcher.watch(pid)
        except BaseException:  # noqa: BLE001 - whatever happened is told to the agent.
            wire.send(control, "failed", text=traceback.format_exc())
        finally:
            os._exit(1)

    def _settle(self, order: wire.Order) -> None:
        """Take from a room's first process what it no longer needs, while the program starts."""
        if self._own_rooms:
            isolation.become(order.uid)
            isolation.lock(self._filter)
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)

    def _program(self, order: wire.Order, port: int | None, output: int) -> NoReturn:
        try:
            program.default_signals()
            os.setsid()
            program.prepare_streams(output)
            self._isolate(order)
            environment = {
                name: value.replace(wire.PORT_PLACEHOLDER, str(port)) for name, value in order.environment.items()
            }
            program.prepare_interpreter(environment)
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
            os._exit(1)
        program.run(order.entry)

    def _isolate(self, order: wire.Order) -> None:
        isolation.limit_resources(order)
        if self._own_rooms:
            isolation.become(order.uid)
            kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
            isolation.own_users()
            isolation.restrict_room_files()
        else:
            # Some of these folders can be named by root alone.
            isolation.restrict_host_files(order, self._readable)
            isolation.become(order.uid)
            kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        isolation.lock(self._filter)
        # Changing the user clears the order to die with the parent, so it is given last.
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.chdir(layout.JOB if self._own_rooms else order.job)
