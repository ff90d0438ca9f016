"""Runs what blocks (writes, fsync, hashing) off the event loop, and what must not end in the middle to its end."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function in a thread and waits for it, also when the caller is cancelled meanwhile.

    A thread cannot be stopped. When a client goes away, the caller will close and delete files, so it must not go on
    before the thread has let go of them.
    """
    return await to_the_end(asyncio.to_thread(function, *args, **kwargs))


async def to_the_end(steps: Awaitable[T]) -> T:
    """Goes through steps that belong together to their end, also when the caller is cancelled meanwhile."""
    work = asyncio.ensure_future(steps)
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait((work,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        work.exception()  # Retrieved, so that asyncio does not report it as forgotten.
        raise cancelled
    return work.result()


class Meanwhile:
    """Runs one function at a time in a thread while its caller goes on; a context manager that ends with the last one.

    What a function raises is raised by the next call, or at the end.
    """

    def __init__(self) -> None:
        self._work: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a function is running."""
        return self._work is not None and not self._work.done()

    async def start(self, function: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Calls a function in a thread, once the one before has ended."""
        await self._end()
        self._work = asyncio.create_task(asyncio.to_thread(function, *args, **kwargs))

    async def _end(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            await to_the_end(work)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            await self._end()
            return
        with suppress(Exception):  # What ended the block is what is told.
            await self._end()
