"""Finds jobs that nobody has spoken of for a while and tells scheduler or worker once more."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import Reason

from qonduit_gateway.database import job_rows, outbox_rows
from qonduit_gateway.database.outbox_rows import Lane
from qonduit_gateway.jobs.model import JobState
from qonduit_gateway.jobs.transitions import Announce, Stop

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from qonduit_gateway.cluster_view import ClusterView
    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.instruments import Instruments
    from qonduit_gateway.jobs.model import Job
    from qonduit_gateway.jobs.transitions import Effect
    from qonduit_gateway.outgoing import OutgoingFactory
    from qonduit_gateway.relay import OutboxRelay

_AT_ONCE = 100
_MOST_DOUBLINGS = 5
_FRESH_TICKET_S = 12 * 3600.0
"""Half of the time that a ticket is good for beyond the job's own: one that waits for days needs others."""
_log = get_logger("sweeper")


class Sweeper:
    """Tells again what may have been lost with a broker's data. The pauses double, so that a full queue stays quiet."""

    def __init__(
        self,
        database: Database,
        relay: OutboxRelay,
        outgoing: OutgoingFactory,
        cluster: ClusterView,
        instruments: Instruments,
        *,
        tell_again_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._relay = relay
        self._outgoing = outgoing
        self._cluster = cluster
        self._instruments = instruments
        self._tell_again_s = tell_again_s
        self._clock = clock
        self._pauses_a_ticket = max(1, int(_FRESH_TICKET_S / (tell_again_s * 2**_MOST_DOUBLINGS)))

    async def sweep(self) -> None:
        """Look once."""
        now = self._clock()

        def tell(connection: Connection) -> int:
            oldest_at = outbox_rows.backlog(connection, Lane.BUS).oldest_at
            if oldest_at is not None and oldest_at <= now - self._tell_again_s:
                return 0  # What is due now may be on its way still: the broker may be down.
            return sum(self._again(connection, state, now) for state in (JobState.QUEUED, JobState.CANCELING))

        told = await self._database.write(tell)
        if told:
            _log.info("told again", jobs=told)
        self._relay.wake()
        self._instruments.set_outbox(await self._database.read(outbox_rows.backlog), now)

    def _again(self, connection: Connection, state: JobState, now: float) -> int:
        told = 0
        for job, count in job_rows.due(connection, state, now, limit=_AT_ONCE):
            # A job that the scheduler lists as waiting is in good hands, but for the ticket that goes with it.
            known = state is JobState.QUEUED and self._cluster.knows(job.job_id, job.progress.attempt)
            if not known or count % self._pauses_a_ticket == 0:
                outbox_rows.add(connection, self._outgoing.make(job, _effect(job)), at=now)
                told += 1
            pause_s = self._tell_again_s * 2 ** min(count, _MOST_DOUBLINGS)
            job_rows.mark_told(connection, job.job_id, tell_again_at=now + pause_s)
        return told


def _effect(job: Job) -> Effect:
    if job.progress.state is JobState.QUEUED:
        return Announce()
    return Stop(job.progress.worker_id, job.progress.attempt, Reason.CANCELED)
