"""Keeps one unit of the stack running: starts it, and starts it again when it dies, a little later each time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from qonduit.stack.errors import StartError, WrongSettingsError
from qonduit.stack.processes import process_id
from qonduit.stack.state import ServiceState

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit.stack.events import Events
    from qonduit.stack.units import Unit

FIRST_WAIT_S: Final = 0.25
LONGEST_WAIT_S: Final = 30.0
STEADY_AFTER_S: Final = 30.0
"""Who ran so long begins with the shortest wait again."""
_POLL_S: Final = 0.02
TRIES_TO_BEGIN_WITH: Final = 3
PATIENCE_TO_BEGIN_WITH_S: Final = 60.0
"""A unit that never once came up is given up after so many tries, or with the first that fails so late."""


class Keeper:
    """Looks after one unit."""

    def __init__(self, unit: Unit, events: Events, changed: Callable[[], None]) -> None:
        self.unit = unit
        self.state = ServiceState(unit.name)
        self.ready = asyncio.Event()
        self._events = events
        self._changed = changed

    async def run(self) -> None:
        """Keep it running until canceled.

        Raises:
            StartError: It never came up.
        """
        wait_s, tries, first = FIRST_WAIT_S, 0, time.monotonic()
        while True:
            began = time.monotonic()
            tries += 1
            try:
                await self._start()
                how = await self._watch()
            except StartError as error:
                hopeless = (
                    isinstance(error, WrongSettingsError)
                    or tries >= TRIES_TO_BEGIN_WITH
                    or time.monotonic() - first > PATIENCE_TO_BEGIN_WITH_S
                )
                if hopeless and not self.ready.is_set():
                    raise StartError(f"{self.unit.name} {error}") from error
                how = str(error)
            if time.monotonic() - began > STEADY_AFTER_S:
                wait_s = FIRST_WAIT_S
            self.state.restarts += 1
            self._events.say(self.unit.name, f"{how}\nstarting it again in {wait_s:g} s", "bad")
            self._become("waiting")
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    async def stop(self) -> None:
        """Stop it, by force if it takes too long."""
        self._become("stopping")
        began, lived = time.monotonic(), self.unit.pid != 0
        try:
            async with asyncio.timeout(self.unit.stop_timeout_s):
                await self.unit.stop()
        except TimeoutError:
            self.unit.kill()
            self._events.say(self.unit.name, f"did not stop within {self.unit.stop_timeout_s:.0f} s, killed", "bad")
            await self.unit.ended()
        else:
            if lived:
                self._events.say(self.unit.name, f"stopped ({time.monotonic() - began:.1f} s)")
        self._become("stopped")

    async def _start(self) -> None:
        self._become("starting")
        began = time.monotonic()
        noting = asyncio.create_task(self._note_process())
        try:
            await self.unit.start()
        finally:
            noting.cancel()
        self.ready.set()
        self._become("ready")
        ports = ", ".join(f"{name.replace('_', ' ')} {port}" for name, port in self.unit.ports.items())
        self._events.say(self.unit.name, f"ready ({time.monotonic() - began:.1f} s), {ports}", "good")
        for line in self.unit.warnings():
            self._events.say(self.unit.name, line, "warn")

    async def _note_process(self) -> None:
        """Tell of the process before it serves: if we are killed meanwhile, it must be found and ended."""
        while not self.unit.pid:  # noqa: ASYNC110 - A node is started in a thread, which could set no event.
            await asyncio.sleep(_POLL_S)
        self._become("starting")

    async def _watch(self) -> str:
        return f"ended ({await self.unit.ended()})"

    def _become(self, state: str) -> None:
        pid = self.unit.pid
        me = self.state
        me.pid, me.birth = pid, process_id(pid).birth if pid else ""
        me.state, me.since = state, time.time()
        me.ports = dict(self.unit.ports)
        self._changed()
