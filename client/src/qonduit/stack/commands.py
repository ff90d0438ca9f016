"""`up`, `down`, `status` and `logs` for one machine, as functions."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from qonduit.stack import state as states
from qonduit.stack.errors import AlreadyRunningError, StackError
from qonduit.stack.events import Events
from qonduit.stack.layout import Layout, data_dir_option
from qonduit.stack.rabbitmq_data import LOOPBACK
from qonduit.stack.rabbitmq_home import RabbitNodeError
from qonduit.stack.supervisor import Options, Supervisor

if TYPE_CHECKING:
    from collections.abc import Iterator

DOWN_TIMEOUT_S: Final = 120.0
_FOLLOW_POLL_S: Final = 0.2
_PROBE_S: Final = 2.0


def run_in_foreground(options: Options, *, report: IO[str] | None = None) -> None:
    """Run a stack until a signal comes.

    Raises:
        StackError: It did not come up.
        AlreadyRunningError: Another one owns the data folder.
    """
    options.layout.prepare()
    with _owned(options.layout):
        events = Events(options.layout.rotate_log("stack"), report=report, quiet=report is not None)
        try:
            asyncio.run(Supervisor(options, events).run())
        except RabbitNodeError as error:
            raise StackError(str(error)) from error
        finally:
            events.close()


def run_in_background(options: Options, report_descriptor: int) -> None:
    """Be the process that `start_in_background` started, and report to it how it went."""
    with os.fdopen(report_descriptor, "w") as report:
        try:
            run_in_foreground(options, report=report)
        except StackError as error:
            with contextlib.suppress(OSError, ValueError):
                report.write(f"={error}\n")
            raise


def start_in_background(options: Options) -> None:
    """Start a stack that outlives this process, and return once it is up.

    Raises:
        StackError: It did not come up.
    """
    options.layout.prepare()
    options = replace(options, detached=True)
    reader, writer = os.pipe()
    with os.fdopen(reader) as report:
        try:
            supervisor = subprocess.Popen(
                [sys.executable, "-m", "qonduit.stack", _as_json(options), str(writer)],
                pass_fds=[writer], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=options.layout.log("stack").open("a"), cwd="/", start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(writer)
        verdict: list[str] = []
        try:
            for line in report:
                # The verdict comes last, and may have several lines.
                if verdict or line.startswith("="):
                    verdict.append(line.removeprefix("="))
                else:
                    sys.stdout.write(line)
                    sys.stdout.flush()
        except KeyboardInterrupt:
            supervisor.terminate()
            supervisor.wait()
            raise
    text = "".join(verdict).strip()
    if text != "up":
        supervisor.wait()
        raise StackError(text or f"The stack ended at once; its log is {options.layout.log('stack')}.")


@contextlib.contextmanager
def _owned(layout: Layout) -> Iterator[None]:
    """Own the data folder; the lock goes with the process, however it ends."""
    with layout.lock_file.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = states.read(layout.state_file).supervisor_pid
            option = data_dir_option(layout)
            raise AlreadyRunningError(
                f"A stack runs on {layout.data_dir} already (pid {pid}). See `qonduit status{option}`; stop it with "
                f"`qonduit down{option}`, or give this one another folder with --data-dir."
            ) from None
        yield


def _as_json(options: Options) -> str:
    return json.dumps({**asdict(options), "layout": str(options.layout.data_dir)})


def options_from_json(text: str) -> Options:
    """Return the options that `start_in_background` wrote."""
    content: dict[str, Any] = json.loads(text)
    return Options(**{**content, "layout": Layout(Path(content["layout"]))})


@dataclass(frozen=True, slots=True)
class Stopped:
    """What there was to stop."""

    supervised: bool
    """Whether a supervisor ran, which stopped everything in order."""
    left_behind: tuple[str, ...] = ()
    """Services that lived on after their supervisor was killed."""


def stop(layout: Layout) -> Stopped:
    """Stop a stack and wait for its end; what a killed supervisor left behind is ended too.

    Raises:
        StackError: It is still there after two minutes, though it was killed.
    """
    state = states.read(layout.state_file)
    if state.running:
        state.supervisor.send(signal.SIGTERM)
        if not state.supervisor.wait(DOWN_TIMEOUT_S):
            state.supervisor.send(signal.SIGKILL)
            state.supervisor.wait(DOWN_TIMEOUT_S)
        return Stopped(supervised=True)
    left = state.left_behind()
    for service in left:
        service.process.send(signal.SIGTERM)
    for service in left:
        if not service.process.wait(DOWN_TIMEOUT_S / 6):
            service.process.send(signal.SIGKILL)
            service.process.wait(DOWN_TIMEOUT_S / 6)
    if any(service.process.alive for service in left):
        raise StackError(f"Some services of {layout.data_dir} cannot be ended; see `qonduit status`.")
    return Stopped(supervised=False, left_behind=tuple(service.name for service in left))


@dataclass(frozen=True, slots=True)
class Health:
    """One service as it is now."""

    name: str
    state: str
    """As in `ServiceState`, or "dead" (its process is gone), "deaf" (nobody answers on its port), or "left behind"
    (it lives on, though its supervisor is gone)."""
    pid: int
    ports: dict[str, int]
    restarts: int
    since: float

    @property
    def good(self) -> bool:
        """Whether it serves."""
        return self.state == "ready"


def status(layout: Layout) -> tuple[states.StackState, list[Health]]:
    """Return what a stack says of itself, and what is true of each service."""
    state = states.read(layout.state_file)
    return state, [_health(service, supervised=state.running) for service in state.services.values()]


def _health(service: states.ServiceState, *, supervised: bool) -> Health:
    now = service.state
    if not supervised:
        now = "left behind" if service.process.alive else ("stopped" if now == "stopped" else "dead")
    elif now == "ready":
        if not service.process.alive:
            now = "dead"
        elif not all(_answers(port) for port in service.ports.values()):
            now = "deaf"
    pid = service.pid if service.process.alive else 0
    return Health(service.name, now, pid, service.ports, service.restarts, service.since)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=_PROBE_S):
            return True
    except OSError:
        return False


def log_lines(layout: Layout, name: str, *, last: int, follow: bool) -> Iterator[str]:
    """Yield the last lines of a service's log, and with `follow` those to come.

    Raises:
        StackError: There is no such log.
    """
    path = layout.log(name)
    try:
        file = path.open(errors="replace")
    except FileNotFoundError:
        if not layout.state_file.exists():
            text = f"No stack was ever started in {layout.data_dir}, so there are no logs. Start one with `qonduit up`."
            raise StackError(text) from None
        known = ["rabbitmq", *sorted(log.stem for log in (layout.data_dir / "logs").glob("*.log"))]
        raise StackError(f"There is no log of {name!r} in {layout.data_dir}. There are: {', '.join(known)}.") from None
    with file:
        yield from deque(file, maxlen=last)
        while follow:
            if line := file.readline():
                yield line
            elif path.exists() and path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                # A new start rotated it away.
                file.close()
                file = path.open(errors="replace")
            else:
                time.sleep(_FOLLOW_POLL_S)
