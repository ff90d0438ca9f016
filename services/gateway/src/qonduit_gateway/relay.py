"""Sends what the outbox holds: at least once, in order, woken at each commit."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
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
    from collections.abc import AsyncIterator

    from qonduit_service_kit.bus import Bus

    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.database.outbox_rows import Outgoing

_BATCH = 100
_AGAIN_S = 1.0
_NEVER = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND})
_log = get_logger("outbox")


class Logs(Protocol):
    """Where logs are."""

    async def close_log(self, job_id: str) -> None:
        """Mark a job's log as complete; may be repeated."""

    async def delete_log(self, job_id: str) -> None:
        """Delete a job's log; may be repeated."""


class OutboxRelay:
    """Empties the outbox. Each lane has its own loop, so that storage being away holds up no job."""

    def __init__(self, database: Database, bus: Bus, logs: Logs) -> None:
        self._database = database
        self._bus = bus
        self._logs = logs
        self._wakers = {lane: asyncio.Event() for lane in Lane}
        self._locks = {lane: asyncio.Lock() for lane in Lane}
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

    def wake(self) -> None:
        """Look at the outbox now."""
        for waker in self._wakers.values():
            waker.set()

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Keep the bus lane still: what was being sent has arrived, nothing else goes out meanwhile."""
        async with self._locks[Lane.BUS]:
            yield

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._failed is not None and not self._failed.done() and not task.cancelled():
            self._failed.set_result(task.exception() or RuntimeError("the relay ended by itself"))

    async def _run(self, lane: Lane) -> None:
        waker = self._wakers[lane]
        while True:
            waker.clear()
            try:
                async with self._locks[lane]:
                    more = await self._send_batch(lane)
            except DatabaseUnavailableError as error:
                _log.warning("the outbox can't be read, trying again", cause=str(error))
                more = False
                asyncio.get_running_loop().call_later(_AGAIN_S, waker.set)
            if not more:
                await waker.wait()

    async def _send_batch(self, lane: Lane) -> bool:
        """Send the oldest rows; tell whether more are waiting."""
        rows = await self._database.read(lambda connection: outbox_rows.waiting(connection, lane, limit=_BATCH))
        if not rows:
            return False
        numbers: list[int] = []
        # What is deleted is deleted last: all else is done to it before.
        for group in (
            [each for each in rows if each[1].type_name != DELETE_LOG],
            [each for each in rows if each[1].type_name == DELETE_LOG],
        ):
            send = self._publish if lane is Lane.BUS else self._change_log
            arrived = await asyncio.gather(*(send(row) for _, row in group))
            numbers += [number for (number, _), done in zip(group, arrived, strict=True) if done]
        # A crash before this line sends the rows once more; receivers are idempotent.
        await self._database.write(lambda connection: outbox_rows.remove(connection, numbers))
        if len(numbers) < len(rows):
            asyncio.get_running_loop().call_later(_AGAIN_S, self._wakers[lane].set)
            return False
        return len(rows) == _BATCH

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
                _log.error("a log can't be changed", what=what, job=log, cause=error.text)
                return True
            _log.warning("a log could not be changed, trying again", what=what, job=log, cause=error.text)
            return False
        return True
