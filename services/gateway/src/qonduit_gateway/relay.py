"""Sends what the outbox holds: at least once, in order, woken at each commit.

What this process commits is handed over as it is and not read again. What others wrote, and what an earlier process
left, is read: at the start, when the relay is woken, and each time that rows which arrived are deleted.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Protocol

import grpc
from qonduit_service_kit.bus import UnroutableError
from qonduit_service_kit.errors import ApiError
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import WORKERS_EXCHANGE

from qonduit_gateway.database import outbox_rows
from qonduit_gateway.database.engine import DatabaseUnavailableError
from qonduit_gateway.database.outbox_rows import Lane
from qonduit_gateway.outgoing import DELETE_LOG

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from qonduit_service_kit.bus import Bus
    from sqlalchemy import Connection

    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.database.outbox_rows import Numbered, Outgoing

_BATCH = 100
_AGAIN_S = 1.0
_LINGER_S = 0.1
"""Rows that were sent are deleted once nothing came for so long: what comes then does not wait for the disk."""
_MOST_HANDED = 1000
"""More than these are read again once they can be sent, and not kept in memory until then."""
_KEPT_S = 1.0
"""So long, or as many as a batch, are kept at most while there is always more to send."""
_NEVER = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND})
_log = get_logger("outbox")


class Logs(Protocol):
    """Where logs are."""

    async def close_log(self, key: str) -> None:
        """Mark a log as complete; may be repeated."""

    async def delete_log(self, key: str) -> None:
        """Delete a log; may be repeated."""


class OutboxRelay:
    """Empties the outbox. Each lane has its own loop, so that storage being away holds up no job."""

    def __init__(self, database: Database, bus: Bus, logs: Logs) -> None:
        self._database = database
        self._bus = bus
        self._logs = logs
        self._wakers = {lane: asyncio.Event() for lane in Lane}
        self._locks = {lane: asyncio.Lock() for lane in Lane}
        self._handed: dict[Lane, list[Numbered]] = {lane: [] for lane in Lane}
        """Rows that were committed since the outbox was read."""
        self._unread = set(Lane)
        """Lanes that may hold more than what was handed over."""
        self._arrived: dict[Lane, set[int]] = {lane: set() for lane in Lane}
        self._delete_at = dict.fromkeys(Lane, 0.0)
        self._tasks: list[asyncio.Task[None]] = []
        self._failed: asyncio.Future[BaseException] | None = None

    async def start(self) -> None:
        """Begin; what an earlier process left is sent first."""
        self._failed = asyncio.get_running_loop().create_future()
        self._tasks = [asyncio.create_task(self._run(lane), name=f"outbox-{lane}") for lane in Lane]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """End; what is not sent stays in the outbox. Safe to call twice."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def failure(self) -> BaseException:
        """Return the error that ended a lane."""
        if self._failed is None:
            raise RuntimeError("the relay was not started")
        return await asyncio.shield(self._failed)

    def wake(self, lanes: Iterable[Lane] = Lane) -> None:
        """Read some lanes of the outbox now, all by default."""
        for lane in lanes:
            self._unread.add(lane)
            self._wakers[lane].set()

    def send(self, committed: Iterable[Numbered]) -> None:
        """Send rows that were just committed."""
        for row in committed:
            lane = row[1].lane
            self._handed[lane].append(row)
            if len(self._handed[lane]) > _MOST_HANDED:
                self._handed[lane].clear()
                self._unread.add(lane)
            self._wakers[lane].set()

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Keep the bus lane still: what was being sent has arrived, nothing else goes out meanwhile."""
        async with self._locks[Lane.BUS]:
            yield

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._failed is not None and not self._failed.done() and not task.cancelled():
            self._failed.set_result(task.exception() or RuntimeError("the relay ended by itself"))

    async def _run(self, lane: Lane) -> None:
        waker, idle = self._wakers[lane], False
        while True:
            waker.clear()
            at_once, until_again_s = False, None
            try:
                async with self._locks[lane]:
                    at_once = await self._send_batch(lane, idle=idle)
                if self._arrived[lane]:
                    until_again_s = _LINGER_S
            except DatabaseUnavailableError as error:
                _log.warning("the outbox can't be read, trying again", cause=str(error))
                until_again_s = _AGAIN_S
            idle = not at_once and not await _set_within(waker, until_again_s)

    async def _send_batch(self, lane: Lane, *, idle: bool) -> bool:
        """Send the oldest rows; tell whether more may be waiting."""
        rows = await self._waiting(lane, idle=idle)
        numbers: set[int] = set()
        # What is deleted is deleted last: all else is done to it before.
        for group in (
            [each for each in rows if each[1].type_name != DELETE_LOG],
            [each for each in rows if each[1].type_name == DELETE_LOG],
        ):
            send = self._publish if lane is Lane.BUS else self._change_log
            arrived = await asyncio.gather(*(send(row) for _, row in group))
            numbers.update(number for (number, _), done in zip(group, arrived, strict=True) if done)
        self._keep(lane, numbers)
        if len(numbers) < len(rows):
            # What comes sooner goes with these, in order.
            self._unread.add(lane)
            asyncio.get_running_loop().call_later(_AGAIN_S, self._wakers[lane].set)
            return False
        return bool(self._handed[lane]) or lane in self._unread

    def _keep(self, lane: Lane, numbers: set[int]) -> None:
        """Remember rows that arrived until they are deleted."""
        if not self._arrived[lane]:
            self._delete_at[lane] = time.monotonic() + _KEPT_S
        self._arrived[lane] |= numbers

    async def _waiting(self, lane: Lane, *, idle: bool) -> list[Numbered]:
        """Return the oldest rows that did not arrive; now and then those that did are deleted first.

        A crash between their arrival and that sends them once more; receivers are idempotent.
        """
        arrived = self._arrived[lane]
        if arrived and (idle or len(arrived) >= _BATCH or time.monotonic() >= self._delete_at[lane]):
            return await self._read(lane, delete=arrived)
        if lane in self._unread:
            return await self._read(lane, delete=set())
        handed = self._handed[lane]
        self._handed[lane] = handed[_BATCH:]
        # One that was read as it was handed over has arrived with what was read.
        return [row for row in handed[:_BATCH] if row[0] not in arrived]

    async def _read(self, lane: Lane, *, delete: set[int]) -> list[Numbered]:
        arrived = self._arrived[lane] - delete
        most = _BATCH + len(arrived)

        def work(connection: Connection) -> list[Numbered]:
            if delete:
                outbox_rows.remove(connection, delete)
            return outbox_rows.waiting(connection, lane, limit=most)

        self._unread.discard(lane)
        try:
            rows = await (self._database.write if delete else self._database.read)(work)
        except BaseException:
            self._unread.add(lane)
            raise
        self._arrived[lane] = arrived
        if len(rows) == most:
            self._unread.add(lane)
        # One that was read and sent before it was handed over is deleted, and is not to be sent again.
        numbers = delete | {number for number, _ in rows}
        self._handed[lane] = [row for row in self._handed[lane] if row[0] not in numbers]
        return [row for row in rows if row[0] not in arrived][:_BATCH]

    async def _publish(self, row: Outgoing) -> bool:
        began = time.monotonic()
        try:
            await self._bus.publish_raw(row.to, row.body, type_name=row.type_name, message_id=row.message_id)
        except UnroutableError:
            if row.to.exchange == WORKERS_EXCHANGE:
                # The worker's inbox expired, so the worker is long gone, and what it ran with it.
                _log.info("a worker is gone, nothing to tell it", worker=row.to.key, message=row.type_name)
                return True
            _log.warning("nobody listens yet, trying again", to=row.to.exchange, message=row.type_name)
            return False
        _log.debug("sent", message=row.message_id, seconds=round(time.monotonic() - began, 4))
        return True

    async def _change_log(self, row: Outgoing) -> bool:
        log = row.body.decode()
        try:
            if row.type_name == DELETE_LOG:
                await self._logs.delete_log(log)
            else:
                await self._logs.close_log(log)
        except ApiError as error:
            what = row.type_name or "close"
            if error.code in _NEVER:
                _log.error("a log can't be changed", what=what, log=log, cause=error.text)
                return True
            _log.warning("a log could not be changed, trying again", what=what, log=log, cause=error.text)
            return False
        return True


async def _set_within(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait for an event, for so long at most; tell whether it came."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await event.wait()
    return False
