"""Runs what blocks (writes, fsync, hashing) off the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function in a thread and waits for it, also when the caller is cancelled meanwhile.

    A thread cannot be stopped. When a client goes away, the caller will close and delete files, so it must not go on
    before the thread has let go of them.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
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
