"""Tiers B and C: programs on the machine's own tree, each under a first process that ends what it started."""

import os
import resource
import signal
import socket
import traceback
from typing import NoReturn

from qonduit_worker.zygote import init, isolation, kernel, layout, program, seccomp, wire


class Trees:
    """Makes programs that share the machine's namespaces."""

    def __init__(self, start: wire.Start) -> None:
        self._filter = seccomp.build(own_network=False)
        self._readable = layout.readable_folders(start.python_path)

    def make(self, order: wire.Order, control: socket.socket, output: int, cgroups: list[int]) -> bool:
        """Fork one; says that `control` is not needed here any more.

        Raises:
            OSError: The kernel refused.
        """
        pid = os.fork()
        if pid == 0:
            self._first_process(order, control, output, cgroups)
        pidfd = os.pidfd_open(pid)
        wire.send(control, "forked", descriptors=(pidfd,))
        os.close(pidfd)
        return False

    def ended(self, pid: int, status: int, used: resource.struct_rusage) -> None:
        """A child was reaped; first processes report for themselves."""

    def begin_anew(self) -> None:
        """Let go of what belongs to the zygote that this one was forked from; nothing."""

    def _first_process(self, order: wire.Order, control: socket.socket, output: int, cgroups: list[int]) -> NoReturn:
        try:
            os.setsid()
            # It must end its tree itself when the zygote dies, so it is asked to.
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGTERM)
            # The program may have the same user as this process, and must not look into it.
            kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
            isolation.join_cgroups(cgroups)
            watcher = init.Init(control, uid=order.uid)
            wire.send(control, "started", port=order.port)
            pid = os.fork()
            if pid == 0:
                self._program(order, output)
            os.close(output)
            watcher.watch(pid)
        except BaseException:  # noqa: BLE001 - whatever happened is told to the agent.
            wire.send(control, "failed", text=traceback.format_exc())
        finally:
            os._exit(1)

    def _program(self, order: wire.Order, output: int) -> NoReturn:
        try:
            os.setsid()
            program.default_signals()
            program.prepare_streams(output)
            isolation.limit_resources(order)
            # Some of these folders can be named by root alone.
            isolation.restrict_host_files(order, self._readable)
            isolation.become(order.uid)
            kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
            isolation.lock(self._filter)
            # Changing the user clears the order to die with the parent, so it is given last.
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            os.chdir(order.job)
            program.prepare_interpreter(order.environment, order.port)
        except BaseException:  # noqa: BLE001 - this process must not go on as anything else.
            traceback.print_exc()
            os._exit(1)
        program.run(order.entry, order.layer)
