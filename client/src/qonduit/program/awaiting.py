"""`await reference`, and with it `asyncio.gather(*references)`."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from qonduit.program.channel import AgentGoneError
from qonduit.program.task_client import LEND_CPU_AFTER_S, task_client
from qonduit.program.tasks import value_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from qonduit.program.references import TaskReference


def wait_for(reference: TaskReference) -> Generator[Any, None, Any]:
    """Wait in an event loop for a task to end; returns its value or raises what it raised.

    As in `get`, a program that waits for long lends its cpu: it may compute in other coroutines meanwhile, but one
    that only waits must not keep from others what they need.
    """
    client = task_client()
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def settle() -> None:
        if not ended.done():
            ended.set_result(None)

    def tell() -> None:
        with contextlib.suppress(RuntimeError):  # The loop was closed: nobody waits any more.
            loop.call_soon_threadsafe(settle)

    client.listen(reference, tell)
    lent = False

    def lend() -> None:
        nonlocal lent
        lent = True
        client.lend_cpu(lending=True)

    lending = loop.call_later(LEND_CPU_AFTER_S, lend)
    try:
        yield from ended
    finally:
        lending.cancel()
        if lent:
            client.lend_cpu(lending=False)
    if reference.outcome is None:
        raise AgentGoneError("the agent closed the channel: the values of tasks can no longer arrive")
    return value_of(reference)
