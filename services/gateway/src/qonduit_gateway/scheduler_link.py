"""Gives a scheduler its term and every job that is not over."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from qonduit_service_kit.codec import encode
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import SCHEDULER, JobsSnapshot, RunningAttempt

from qonduit_gateway.database import job_rows, term_rows
from qonduit_gateway.jobs.model import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from qonduit_service_kit.bus import Bus
    from qonduit_service_kit.messages import JobSpec, SchedulerHello
    from sqlalchemy import Connection

    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.jobs.model import Job
    from qonduit_gateway.outgoing import OutgoingFactory
    from qonduit_gateway.relay import OutboxRelay

_PAGE_BYTES = 48 * 1024
_log = get_logger("scheduler")


class SchedulerLink:
    """Answers a scheduler that became active."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        relay: OutboxRelay,
        outgoing: OutgoingFactory,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._bus = bus
        self._relay = relay
        self._outgoing = outgoing
        self._clock = clock

    async def hello(self, message: SchedulerHello) -> None:
        """Begin a term and send the jobs, in pages.

        A repeated hello gets a term of its own, which is the higher one. The outbox rests meanwhile: a
        withdrawal that is committed after the jobs were read must not overtake the page that names its job.
        """

        def begin(connection: Connection) -> tuple[int, list[Job]]:
            return term_rows.begin(connection, message.scheduler_id, at=self._clock()), job_rows.active(connection)

        async with self._relay.paused():
            term, active = await self._database.write(begin)
            count = 0
            for page in snapshot_pages(message.scheduler_id, term, active, self._outgoing.spec):
                await self._bus.publish(SCHEDULER, page)
                count += 1
        _log.info("a scheduler leads", scheduler=message.scheduler_id, term=term, jobs=len(active), pages=count)


def snapshot_pages(
    scheduler_id: str, term: int, active: Iterable[Job], spec_of: Callable[[Job], JobSpec]
) -> Iterator[JobsSnapshot]:
    """Cut a snapshot into messages of less than 64 KiB; there is always at least one, and the last says so."""
    queued: list[JobSpec] = []
    running: list[RunningAttempt] = []
    size, page = 0, 0
    for job in active:
        spec = spec_of(job)
        job_size = len(encode(JobsSnapshot("", 0, 0, last=False, queued=(spec,))))
        if size and size + job_size > _PAGE_BYTES:
            yield JobsSnapshot(scheduler_id, term, page, last=False, queued=tuple(queued), running=tuple(running))
            queued, running, size, page = [], [], 0, page + 1
        size += job_size
        if job.progress.state is JobState.QUEUED:
            queued.append(spec)
        else:
            running.append(RunningAttempt(spec, job.progress.worker_id))
    yield JobsSnapshot(scheduler_id, term, page, last=True, queued=tuple(queued), running=tuple(running))
