"""Looks after the memory of sandboxes, on machines where the kernel doesn't."""

import asyncio
from collections.abc import Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

from qonduit_service_kit.logs import get_logger

_PERIOD_S: Final = 0.1
_REST: Final = 4.0
"""It rests so many times as long as a round took: many sandboxes on a busy machine must not cost the agent its time."""

_log = get_logger(__name__)


class Watched(Protocol):
    """What the watchdog needs of a sandbox."""

    def look(self) -> int:
        """Read how many bytes it holds now; takes milliseconds, and may run in a thread."""
        ...

    def saw(self, mem_bytes: int) -> None:
        """Take what it held a moment ago."""
        ...


class Watchdog:
    """Tells sandboxes what they hold: as soon as they are watched, and ten times a second, if the machine allows it.

    It looks from a thread of its own, so that the agent's other work goes on.
    """

    def __init__(self) -> None:
        self._watched: set[Watched] = set()
        self._thread: ThreadPoolExecutor | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._goes_round = False

    def watch(self, sandbox: Watched) -> None:
        """Look after a sandbox from now on."""
        self._watched.add(sandbox)
        self._spawn(self._look([sandbox]))  # It may be over before its turn comes.
        if not self._goes_round:
            self._goes_round = True
            self._spawn(self._go_round())

    def forget(self, sandbox: Watched) -> None:
        """Look after it no more; does nothing for one that is not watched."""
        self._watched.discard(sandbox)

    async def stop(self) -> None:
        """End; safe to call twice, and a sandbox may be watched again afterwards."""
        self._watched.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._goes_round = False
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.to_thread(thread.shutdown)

    async def _go_round(self) -> None:
        loop = asyncio.get_running_loop()
        while self._watched:
            begun = loop.time()
            await self._look(list(self._watched))
            await asyncio.sleep(max(_PERIOD_S, _REST * (loop.time() - begun)))
        self._goes_round = False

    async def _look(self, sandboxes: Collection[Watched]) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "watchdog")
        held = await asyncio.get_running_loop().run_in_executor(self._thread, _look_at, sandboxes)
        for sandbox, mem_bytes in zip(sandboxes, held, strict=True):
            if mem_bytes is not None and sandbox in self._watched:
                sandbox.saw(mem_bytes)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _look_at(sandboxes: Collection[Watched]) -> list[int | None]:
    return [_held(sandbox) for sandbox in sandboxes]


def _held(sandbox: Watched) -> int | None:
    try:
        return sandbox.look()
    except Exception:  # noqa: BLE001 - whatever it was, the others must be looked after.
        _log.exception("sandbox_not_looked_at")
        return None
