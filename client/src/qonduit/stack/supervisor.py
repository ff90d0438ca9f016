"""The supervisor behind `qonduit up`: starts a stack, keeps it running, stops it in order."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qonduit.settings import Target
from qonduit.stack import profiles
from qonduit.stack import state as states
from qonduit.stack.errors import StartError
from qonduit.stack.given_rabbitmq import wait_until_it_answers
from qonduit.stack.keeper import Keeper
from qonduit.stack.launching import Launcher
from qonduit.stack.layout import data_dir_option
from qonduit.stack.processes import process_id
from qonduit.stack.rabbitmq import RabbitNode
from qonduit.stack.rabbitmq_data import LOOPBACK
from qonduit.stack.rabbitmq_home import find_rabbitmq
from qonduit.stack.services import (
    STOP_ORDER,
    check_installed,
    choose_ports,
    environment,
    inherited_environment,
    wanted_services,
)
from qonduit.stack.units import BrokerUnit, ServiceUnit

if TYPE_CHECKING:
    from qonduit.stack.events import Events
    from qonduit.stack.layout import Layout
    from qonduit.stack.units import Unit

LEFT_BEHIND_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Options:
    """How to start a stack."""

    layout: Layout
    amqp_url: str = ""
    """A running RabbitMQ; empty means a private node."""
    port: int | None = None
    """The gateway's port; None means the last one, or a free one."""
    workers: int = 1
    detached: bool = False
    """Whether it outlives the command that started it."""


class Supervisor:
    """Looks after one stack, from the first process to the last; its caller owns the data folder."""

    def __init__(self, options: Options, events: Events) -> None:
        self._options = options
        self._layout = options.layout
        self._events = events
        self._state = states.StackState()
        self._keepers: list[Keeper] = []
        self._launcher = Launcher(inherited_environment(), lambda text: events.say("stack", text, "warn"))
        self._reach = ""
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        """Start everything, wait for a signal, stop everything.

        Raises:
            StackError: The stack did not come up; what had come up was stopped again.
        """
        began = time.monotonic()
        self._listen_to_signals()
        self._prepare()
        try:
            self._save()
            if await self._find_rabbitmq():
                await self._work(began)
        finally:
            await self._stop_all()

    def _prepare(self) -> None:
        wanted = wanted_services(self._options.workers)
        check_installed(wanted)
        if not self._options.amqp_url:
            find_rabbitmq()
        before = states.read(self._layout.state_file)
        self._end_left_behind(before)
        ports = choose_ports(wanted, before.ports, self._options.port)
        me = process_id(os.getpid())
        address = f"{LOOPBACK}:{ports['gateway.port']}"
        self._state = states.StackState(me.pid, me.birth, "starting", address, ports)
        units: list[Unit] = []
        amqp_url = self._options.amqp_url
        if not amqp_url:
            node = RabbitNode(self._layout.service_dir("rabbitmq"))
            amqp_url = node.url
            units.append(BrokerUnit(node))
        token = self._layout.token()
        for service in wanted:
            self._layout.rotate_log(service.name)
            wiring = environment(service, self._layout, ports, amqp_url, self._options.workers)
            units.append(ServiceUnit(service, self._layout, wiring, self._launcher.launch))
        self._keepers = [Keeper(unit, self._events, self._save) for unit in units]
        self._reach = profiles.write(self._layout, Target(address, token))
        self._events.say("stack", f"starting in {self._layout.data_dir}")

    async def _find_rabbitmq(self) -> bool:
        """Wait for a RabbitMQ that was given; False if a signal came first."""
        if not self._options.amqp_url:
            return True
        finding = asyncio.create_task(
            wait_until_it_answers(self._options.amqp_url, lambda text: self._events.say("rabbitmq", text, "warn"))
        )
        stopping = asyncio.create_task(_when(self._stop))
        await asyncio.wait({finding, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not finding.done():
            finding.cancel()
            return False
        finding.result()
        return True

    async def _work(self, began: float) -> None:
        """Run the keepers until a signal comes, or one of them gives up."""
        keeping = [asyncio.create_task(keeper.run(), name=keeper.unit.name) for keeper in self._keepers]
        stopping = asyncio.create_task(_when(self._stop))
        all_ready = asyncio.create_task(self._announce(began))
        try:
            await asyncio.wait({stopping, *keeping}, return_when=asyncio.FIRST_COMPLETED)
            for task in keeping:
                if task.done():
                    task.result()
        except StartError as error:
            self._events.say("stack", f"gives up: {str(error).splitlines()[0]}", "bad")
            raise
        finally:
            for task in (*keeping, stopping, all_ready):
                task.cancel()
            await asyncio.gather(*keeping, stopping, all_ready, return_exceptions=True)

    async def _announce(self, began: float) -> None:
        for keeper in self._keepers:
            await keeper.ready.wait()
        self._state.phase = "up"
        self._save()
        text = f"up ({time.monotonic() - began:.1f} s) at {self._state.address}"
        self._events.say("stack", text, "good")
        if self._state.rest_address:
            self._events.say("stack", f"clients of Qiskit Serverless reach it at {self._state.rest_address}")
        end = f"qonduit down{data_dir_option(self._layout)}" if self._options.detached else "Ctrl-C"
        self._events.say("stack", f"{end} stops it; qonduit upload hello.py && qonduit run hello --follow uses it")
        if self._reach:
            self._events.say("stack", self._reach, "warn")
        self._events.end_report("up")

    async def _stop_all(self) -> None:
        """Stop in the order in which nothing loses what it still needs; a second signal kills."""
        self._state.phase = "stopping"
        self._events.say("stack", "stopping (again Ctrl-C to kill)")
        hurrying = asyncio.create_task(_when(self._hurry))
        for kinds in STOP_ORDER:
            group = [keeper for keeper in self._keepers if _kind(keeper.unit.name) in kinds]
            stopping = asyncio.create_task(_together(group))
            await asyncio.wait({hurrying, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if hurrying.done():
                for keeper in self._keepers:
                    keeper.unit.kill()
            await stopping
        hurrying.cancel()
        self._state.phase = "stopped"
        self._state.supervisor_pid, self._state.supervisor_birth = 0, ""
        self._save()
        self._events.say("stack", "stopped")

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._signaled)

    def _signaled(self) -> None:
        (self._hurry if self._stop.is_set() else self._stop).set()

    def _save(self) -> None:
        self._state.services = {keeper.unit.name: keeper.state for keeper in self._keepers}
        states.write(self._layout.state_file, self._state)

    def _end_left_behind(self, before: states.StackState) -> None:
        """End what a supervisor that was killed could not: each has a time limit, then it is killed."""
        left = before.left_behind()
        for service in left:
            service.process.send(signal.SIGTERM)
        for service in left:
            self._events.say(service.name, "was left behind by an earlier stack and is ended", "warn")
            if not service.process.wait(LEFT_BEHIND_TIMEOUT_S):
                service.process.send(signal.SIGKILL)


async def _when(event: asyncio.Event) -> None:
    await event.wait()


async def _together(keepers: list[Keeper]) -> None:
    await asyncio.gather(*(keeper.stop() for keeper in keepers))


def _kind(name: str) -> str:
    return name.partition("-")[0]
