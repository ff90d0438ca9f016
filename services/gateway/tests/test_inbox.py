"""The order in which the inbox's messages are handled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from qonduit_gateway.database.engine import DatabaseUnavailableError
from qonduit_gateway.inbox import Inbox
from qonduit_service_kit.messages import AttemptLost, EventKind, JobEvent

if TYPE_CHECKING:
    from qonduit_service_kit.bus import Bus, Delivery


class Received:
    """A delivery, as far as the inbox looks at it."""

    def __init__(self, message: object) -> None:
        self.message = message


async def test_an_end_that_waits_for_the_database_is_not_overtaken_by_a_loss_of_its_job() -> None:
    handled: list[str] = []
    other_done = asyncio.Event()

    async def apply(event: JobEvent) -> None:
        if not other_done.is_set():
            raise DatabaseUnavailableError("locked")
        handled.append(f"{event.job_id} finished")

    async def lost(message: AttemptLost) -> None:
        handled.append(f"{message.job_id} lost")
        other_done.set()

    inbox = Inbox(cast("Bus", None), {JobEvent: apply, AttemptLost: lost})
    messages: list[Any] = [
        JobEvent("j1", 1, 3, 0.0, "w1", EventKind.FINISHED),
        AttemptLost("j1", 1, "w1", "nobody heard how it ended"),
        AttemptLost("j2", 1, "w1", "silent"),
    ]
    async with asyncio.timeout(60):
        await asyncio.gather(*(inbox.handle(cast("Delivery", Received(each))) for each in messages))
    assert handled == ["j2 lost", "j1 finished", "j1 lost"]
