"""Runs what blocks (writes, fsync, hashing) off the event loop, and what must not end in the middle to its end."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Generic, ParamSpec, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

P = ParamSpec("P")
T = TypeVar("T")

_TURN_PIECES = 8
"""After so many of one lane, others who wait for a thread have their turn."""


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
    has no thread, so that many slow senders hold none, and after some pieces others have their turn with the threads.
    """

    def __init__(self, work: Callable[[T], object], most: int) -> None:
        self._work = work
        self._most = most
        self._waiting: deque[T] = deque()
        self._given = 0
        self._done = 0  # Counted by the thread.
        self._thread: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._news: asyncio.Future[None] | None = None  # Somebody waits for it.

    async def put(self, piece: T) -> None:
        """Hands over a piece, once fewer than `most` of them are waiting or at work."""
        while self._given - self._done >= self._most and self._error is None:
            await self._next_news()
        if self._error is not None:
            raise self._error
        self._waiting.append(piece)
        self._given += 1
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._thread = loop.run_in_executor(None, self._do_some, loop)
        self._thread.add_done_callback(self._ended)

    def _do_some(self, loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(_TURN_PIECES):
            try:
                piece = self._waiting.popleft()
            except IndexError:
                return
            self._work(piece)
            self._done += 1
            if self._news is not None:
                loop.call_soon_threadsafe(self._tell)

    def _ended(self, thread: asyncio.Future[None]) -> None:
        self._thread = None
        self._error = None if thread.cancelled() else thread.exception()
        self._tell()
        if self._waiting and self._error is None:  # Its turn is over, or they came after its last look.
            self._start()

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def _next_news(self) -> None:
        # What was done just before is not told any more; then the next piece is, or the thread's end.
        self._news = asyncio.get_running_loop().create_future()
        try:
            await self._news
        finally:
            self._news = None

    async def _drain(self) -> None:
        while self._thread is not None:
            await self._next_news()
        if self._error is not None:
            raise self._error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            await to_the_end(self._drain())
            return
        self._waiting.clear()
        with suppress(Exception):  # What ended the block is what is told.
            await to_the_end(self._drain())
