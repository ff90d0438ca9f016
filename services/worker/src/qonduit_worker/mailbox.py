"""Messages for one driver or executor, handled in order and apart from everybody else's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_MOST: Final = 10_000

_log = get_logger(__name__)


class Mailbox:
    """A queue with one handler; a slow program holds up its own messages and nobody else's.

    What is in it may be acknowledged: if this process dies the attempt dies with it.
    """

    def __init__(self, handler: Callable[[object], Awaitable[None]]) -> None:
        self._handler = handler
        self._messages: asyncio.Queue[object] = asyncio.Queue(_MOST)
        self._worker = asyncio.create_task(self._work())

    async def put(self, message: object) -> None:
        """Add a message; waits when far too many are there."""
        await self._messages.put(message)

    async def close(self) -> None:
        """Drop what was not handled; safe to call twice."""
        self._worker.cancel()
        await asyncio.wait([self._worker])

    async def _work(self) -> None:
        while True:
            message = await self._messages.get()
            try:
                await self._handler(message)
            except Exception:  # noqa: BLE001 - One message must not end the others.
                _log.exception("message_failed", message=type(message).__name__)
