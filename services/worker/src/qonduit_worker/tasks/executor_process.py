"""What an executor's desk needs of its process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio

    from qonduit_worker.sandbox import Exit, Usage


class ExecutorProcess(Protocol):
    """The sandboxed process of one executor, as the agent started it."""

    output: asyncio.StreamReader

    def push(self, name: str, **fields: Any) -> None:
        """Send to the process; raises ConnectionError when it is gone."""
        ...

    def usage(self) -> Usage:
        """Read what its tree used so far."""
        ...

    async def wait(self) -> Exit:
        """Wait for the end of its tree."""
        ...

    def kill(self) -> None:
        """End its tree at once."""
        ...
