"""Tier A: each program in namespaces of its own, all of which die with their first process."""

import os
import resource
import signal
import socket
import traceback
from dataclasses import dataclass
from typing import Final, NoReturn

from qonduit_worker.zygote import isolation, kernel, layout, program, seccomp, wire

# The first process of a pid namespace only has to stay, and to have its orphans reaped. A spawned shell costs a
# tenth of a millisecond; a second fork of this process would cost as much as the first.
_FIRST_PROCESS: Final = ("/bin/sh", "-c", "trap '' CHLD; exec sleep infinity")


@dataclass(frozen=True, slots=True)
class _Room:
    first: int
    control: socket.socket


class Rooms:
    """Makes rooms and programs in them. Both processes of a room are the zygote's children."""

    def __init__(self, start: wire.Start) -> None:
        self._filter = seccomp.build(own_network=True)
        shown = layout.interpreter_folders(start.python_path)
        self._below_tmp = [path for path in shown if path.startswith(layout.TMP + "/")]
        self._pid_namespace = _own_pid_namespace()
        self._rooms: dict[int, _Room] = {}

    def make(self, order: wire.Order, control: socket.socket, output: int, cgroups: list[int]) -> bool:
        """Fork one; says that `control` is still needed, to report the end.

        Raises:
            OSError: The kernel refused.
        """
        first, pid = self._fork()
        if pid == 0:
            self._program(order, control, output, cgroups)
        self._rooms[pid] = _Room(first, control)
        descriptors = os.pidfd_open(first), os.pidfd_open(pid)
        wire.send(control, "forked", descriptors=descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def _fork(self) -> tuple[int, int]:
        kernel.unshare(kernel.CLONE_NEWPID)
        pid = -1
        try:
            first = os.posix_spawn(_FIRST_PROCESS[0], _FIRST_PROCESS, {})
            pid = os.fork()
        finally:
            if pid != 0:
                # The next child gets a namespace of its own only from a process whose children have none.
                kernel.setns(self._pid_namespace, kernel.CLONE_NEWPID)
        return first, pid

    def ended(self, pid: int, status: int, used: resource.struct_rusage) -> None:
        """A child was reaped: when it is a program, tell the agent, and end what else is in its room."""
        room = self._rooms.pop(pid, None)
        if room is None:
            return
        cpu_s = used.ru_utime + used.ru_stime
        try:
            wire.send(room.control, "exit", status=status, cpu_s=cpu_s)
        except OSError:
            pass  # The agent is gone, and this process is about to learn it.
        finally:
            room.control.close()
            os.kill(room.first, signal.SIGKILL)

    def begin_anew(self) -> None:
        """Let go of the rooms of the zygote that this one was forked from, and make rooms of its own."""
        os.close(self._pid_namespace)
        self._pid_namespace = _own_pid_namespace()
        for room in self._rooms.values():
            room.control.close()
        self._rooms = {}

    def _program(self, order: wire.Order, control: socket.socket, output: int, cgroups: list[int]) -> NoReturn:
        try:
            os.setsid()
            program.default_signals()
            with isolation.enter_room(order, self._below_tmp) as listener:
                port = listener.getsockname()[1]
                wire.send(control, "started", descriptors=(listener.fileno(),), port=port)
            # Late, because the kernel may still be on its way to a state in which this is quick.
            isolation.join_cgroups(cgroups)
            isolation.own_cgroups()
            program.prepare_streams(output)
            self._isolate(order)
            program.prepare_interpreter(order.environment, port)
        except BaseException:  # noqa: BLE001 - whatever happened is told to the agent.
            _tell(control, traceback.format_exc())
        program.run(order.entry, layout.LAYER if order.layer is not None else None)

    def _isolate(self, order: wire.Order) -> None:
        isolation.limit_resources(order)
        isolation.become(order.uid)
        # A process that changed its user owns its own files in /proc only when it may be traced again.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        isolation.own_users()
        isolation.restrict_room_files()
        isolation.lock(self._filter)
        os.chdir(layout.JOB)


def _own_pid_namespace() -> int:
    return os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)


def _tell(control: socket.socket, text: str) -> NoReturn:
    """Say what went wrong before the program began; on its output when the control socket is closed already."""
    try:
        wire.send(control, "failed", text=text)
    except OSError:
        os.write(1, text.encode())
    finally:
        os._exit(1)
