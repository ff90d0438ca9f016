"""Ways to begin a service's process: as a command of its own, or forked from one that has imported already."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Protocol

from qonduit.stack import child
from qonduit.stack.forking import Forks, ForksUnfitError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Process(Protocol):
    """A process that was begun; asyncio's are such."""

    @property
    def pid(self) -> int:
        """Its number."""

    @property
    def returncode(self) -> int | None:
        """Its exit code, or the negative number of a signal; None while it lives."""

    async def wait(self) -> int:
        """Return its exit code, once it has ended."""

    def terminate(self) -> None:
        """Send SIGTERM; ProcessLookupError if it is gone."""


async def spawn(module: str, environment: Mapping[str, str], log: int) -> Process:
    """Begin `python -m MODULE` in a session of its own, with its output in a file; it ends with this process."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", child.__file__, str(os.getpid())),
        *(sys.executable, "-m", module),
        env=dict(environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


class Launcher:
    """Forks services where that can be done, and spawns them elsewhere.

    Args:
        environment: That of the process to fork from: what all services have in common.
        warn: Told in a sentence why services are not forked, where they should be.
    """

    def __init__(self, environment: Mapping[str, str], warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._forks = Forks(environment)
        self._forking = sys.platform == "linux"  # Elsewhere the system's libraries don't outlive a mere fork.

    async def launch(self, module: str, environment: Mapping[str, str], log: int) -> Process:
        """Begin a service; OSError if the system refuses."""
        if self._forking:
            try:
                return await self._forks.launch(module, environment, log)
            except ForksUnfitError as error:
                if self._forking:
                    self._warn(f"services share no memory, because they cannot be forked: {error}")
                self._forking = False
        return await spawn(module, environment, log)
