"""What the supervisor starts and stops: a service's process, or a RabbitMQ node."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from typing import TYPE_CHECKING, Final, Protocol

from qonduit.stack.errors import StartError, WrongSettingsError
from qonduit.stack.launching import spawn
from qonduit.stack.processes import ended, process_id
from qonduit.stack.rabbitmq_home import RabbitNodeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from qonduit.stack.launching import Process
    from qonduit.stack.layout import Layout
    from qonduit.stack.rabbitmq import RabbitNode
    from qonduit.stack.services import Service

    Launch = Callable[[str, Mapping[str, str], int], Awaitable[Process]]

START_TIMEOUT_S: Final = 120.0
_WRONG_SETTINGS: Final = 2
"""The exit code by which a service says that another try would end in the same way."""
_POLL_S: Final = 0.02
_TAIL_LINES: Final = 12
_LONGEST_LINE: Final = 500
_WARNING: Final = re.compile(r"\S+ WARNING +\w+: (.*)")


class Unit(Protocol):
    """A part of the stack that has a process."""

    name: str
    stop_timeout_s: float

    @property
    def pid(self) -> int:
        """Its process; 0 when there is none."""

    @property
    def ports(self) -> Mapping[str, int]:
        """The ports it serves on, once it is started."""

    async def start(self) -> None:
        """Start it and return once it serves; StartError, with the end of its log, if it doesn't.

        WrongSettingsError is the one where another try is of no use.
        """

    def warnings(self) -> list[str]:
        """Return the warnings that it logged while it started."""

    async def ended(self) -> str:
        """Return how its process ended, once it has."""

    async def stop(self) -> None:
        """Ask it to stop and wait; safe to call twice, and without a start."""

    def kill(self) -> None:
        """End it at once."""


class ServiceUnit:
    """A service, run by this interpreter, in a session of its own."""

    stop_timeout_s = 20.0

    def __init__(
        self, service: Service, layout: Layout, environment: Mapping[str, str], launch: Launch = spawn
    ) -> None:
        self.name = service.name
        self._module = service.module
        self._environment = dict(environment)
        self._launch = launch
        self._ready_file = layout.ready_file(service.name)
        self._log = layout.log(service.name)
        self._process: Process | None = None
        self._log_start = 0
        self.ports: dict[str, int] = {}

    @property
    def pid(self) -> int:
        """Its process; 0 when there is none."""
        return self._process.pid if self._process and self._process.returncode is None else 0

    async def start(self) -> None:
        """Start it and return once its ready file is there."""
        self._ready_file.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            try:
                self._process = await self._launch(self._module, self._environment, log.fileno())
            except OSError as error:
                raise StartError(f"could not be started: {error}") from error
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._ready_file.exists():
            if self._process.returncode == _WRONG_SETTINGS:
                raise WrongSettingsError(f"was not started: its settings are wrong.\n{self._log_end()}")
            if self._process.returncode is not None:
                raise StartError(f"ended while starting ({_how(self._process.returncode)}).\n{self._log_end()}")
            if time.monotonic() > deadline:
                self.kill()
                raise StartError(f"was not ready within {START_TIMEOUT_S:.0f} s.\n{self._log_end()}")
            await asyncio.sleep(_POLL_S)
        told = json.loads(self._ready_file.read_text())
        self.ports = {name: port for name, port in told.items() if name.endswith("port")}

    def warnings(self) -> list[str]:
        """Return the warnings that it logged while it started."""
        with self._log.open("rb") as file:
            file.seek(self._log_start)
            lines = file.read().decode(errors="replace").splitlines()
        found = (_WARNING.match(line) for line in lines)
        # Until RabbitMQ is up every service says that it waits for it, which nobody needs to read.
        return [match[1] for match in found if match and "RabbitMQ" not in match[1]]

    async def ended(self) -> str:
        """Return how its process ended, once it has."""
        if self._process is None:
            return "never started"
        return _how(await self._process.wait())

    async def stop(self) -> None:
        """Send SIGTERM and wait for its end."""
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        await self._process.wait()

    def kill(self) -> None:
        """Kill its whole session."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def _log_end(self) -> str:
        lines = self._log.read_bytes()[self._log_start :].decode(errors="replace").splitlines()
        shown = [line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} ..." for line in lines[-_TAIL_LINES:]]
        return "\n".join([*shown, f"(the whole log: {self._log})"])


class BrokerUnit:
    """The private RabbitMQ node; its own calls block, so they run in threads."""

    name = "rabbitmq"
    stop_timeout_s = 20.0

    def __init__(self, node: RabbitNode) -> None:
        self._node = node

    @property
    def pid(self) -> int:
        """Its process; 0 when there is none."""
        return self._node.pid or 0

    @property
    def url(self) -> str:
        """The AMQP URL: a secret."""
        return self._node.url

    @property
    def ports(self) -> Mapping[str, int]:
        """The AMQP port."""
        return {"amqp_port": self._node.port}

    async def start(self) -> None:
        """Start the node and return once it accepts clients."""
        try:
            await asyncio.to_thread(self._node.start)
        except RabbitNodeError as error:
            raise StartError(str(error)) from error

    def warnings(self) -> list[str]:
        """Return nothing: RabbitMQ warns of what is of no interest on one machine."""
        return []

    async def ended(self) -> str:
        """Return once its process has ended; how is in its log."""
        if pid := self.pid:
            await ended(pid)
        return "its process is gone"

    async def stop(self) -> None:
        """Stop it in order."""
        await asyncio.to_thread(self._node.stop)

    def kill(self) -> None:
        """End it at once."""
        if pid := self.pid:
            process_id(pid).send(signal.SIGKILL)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
