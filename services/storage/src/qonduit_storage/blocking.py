"""Runs what blocks (writes, fsync, hashing) off the event loop, and what must not end in the middle to its end."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Generic, ParamSpec, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function in a thread and waits for it, also when the caller is cancelled meanwhile.

    A thread cannot be stopped. When a client goes away, the caller will close and delete files, so it must not go on
    before the thread has let go of them.
    """
    call = partial(copy_context().run, partial(function, *args, **kwargs))
    return await to_the_end(asyncio.get_running_loop().run_in_executor(None, call))


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


class Lane(Generic[T]):
    """Does one thing with pieces, in their order, in a thread while its caller goes on; ends with the last of them.

    A few of them wait for it at most. What it raises is raised by the next call, or at the end. While no piece waits it
    has no thread, so that many slow senders hold none.
    """

    def __init__(self, work: Callable[[T], object], most: int) -> None:
        self._work = work
        self._most = most
        self._waiting: list[T] = []
        self._at_work = 0
        self._batch: asyncio.Future[None] | None = None  # Runs, or has failed.

    async def put(self, piece: T) -> None:
        """Hands over a piece, once fewer than `most` of them are waiting or at work."""
        while self._batch is not None and (self._batch.done() or len(self._waiting) + self._at_work >= self._most):
            await self._turn(self._batch)
        self._waiting.append(piece)
        if self._batch is None:
            self._start()

    def _start(self) -> None:
        pieces, self._waiting = self._waiting, []
        self._at_work = len(pieces)
        self._batch = asyncio.get_running_loop().run_in_executor(None, self._do, pieces)
        self._batch.add_done_callback(self._go_on)

    def _do(self, pieces: list[T]) -> None:
        for piece in pieces:
            self._work(piece)

    def _go_on(self, batch: asyncio.Future[None]) -> None:
        if batch.cancelled() or batch.exception() is not None:
            return
        self._batch = None
        if self._waiting:
            self._start()

    async def _turn(self, batch: asyncio.Future[None]) -> None:
        await asyncio.wait((batch,))  # A cancelled caller does not cancel it: a thread cannot be stopped.
        if self._batch is batch:
            batch.result()

    async def _drain(self) -> None:
        while self._batch is not None:
            await self._turn(self._batch)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            await to_the_end(self._drain())
            return
        self._waiting.clear()
        with suppress(Exception):  # What ended the block is what is told.
            await to_the_end(self._drain())
