"""What happens to workers and their leases: heartbeats, ends, losses."""

from __future__ import annotations

from typing import Final

from qonduit_service_kit.messages import (
    DriverGranted,
    DriverWaiting,
    ExecutorGranted,
    LeaseEnded,
    LeaseKind,
    LeaseStatus,
    SchedulerElected,
    WorkerHeartbeat,
    WorkerStopped,
)

from qonduit_scheduler import attempts
from qonduit_scheduler.fleet import Lease, Worker
from qonduit_scheduler.picture import Phase, Picture

_REMIND_S: Final = 2.0


def heartbeat(picture: Picture, message: WorkerHeartbeat, now: float) -> None:
    """Take a worker's whole truth; one that is late, repeated or of a worker's former life is dropped."""
    if (message.worker_id, message.incarnation) in picture.retired:
        return
    worker = picture.fleet.workers.get(message.worker_id)
    if worker is not None and worker.incarnation != message.incarnation:
        lose(picture, worker, now, f"worker {worker.worker_id} was started anew", for_good=True)
        worker = None
    if worker is None:
        worker = _join(picture, message, now)
    elif message.sequence <= worker.sequence:
        return
    else:
        _update(picture, worker, message, now)
    _reconcile(picture, worker, message, now)
    if worker.draining:
        drain(picture, worker, now)
    _remind_of_term(picture, worker, message, now)


def _join(picture: Picture, message: WorkerHeartbeat, now: float) -> Worker:
    worker = Worker(
        worker_id=message.worker_id,
        incarnation=message.incarnation,
        sequence=message.sequence,
        capacity=message.capacity,
        seen_at=now,
        hostname=message.hostname,
        sandbox_tier=message.sandbox_tier,
        draining=message.draining,
        elected_us=message.term >= picture.term,
    )
    picture.fleet.join(worker)
    picture.fairness.resize(picture.fleet.total)
    picture.changed = True
    return worker


def _update(picture: Picture, worker: Worker, message: WorkerHeartbeat, now: float) -> None:
    worker.sequence, worker.seen_at = message.sequence, now
    worker.hostname, worker.sandbox_tier = message.hostname, message.sandbox_tier
    elected_us = worker.elected_us or message.term >= picture.term
    if worker.refuses or elected_us != worker.elected_us:
        worker.refuses, worker.elected_us = False, elected_us
        picture.fleet.reindex(worker)
    if worker.capacity != message.capacity or worker.draining != message.draining:
        picture.fleet.resize(worker, message.capacity, draining=message.draining)
        picture.fairness.resize(picture.fleet.total)
        picture.changed = True


def _reconcile(picture: Picture, worker: Worker, message: WorkerHeartbeat, now: float) -> None:
    """Make our leases of a worker and its own agree: it alone knows what it runs."""
    reported = {status.lease_id: status for status in message.leases}
    for status in message.leases:
        if status.lease_id not in worker.leases:
            _meet(picture, worker, status, now)
    for lease in list(worker.leases.values()):
        status_of_ours = reported.get(lease.lease_id)
        if status_of_ours is not None:
            _confirm(picture, lease, status_of_ours, now)
        elif lease.acknowledged or now - lease.granted_at > picture.settings.grant_timeout_s:
            _lose_lease(picture, lease, now, f"worker {worker.worker_id} no longer holds its lease")
    if message.term >= picture.term:
        _miss(picture, worker.worker_id, now)
    picture.grew(worker)


def _meet(picture: Picture, worker: Worker, status: LeaseStatus, now: float) -> None:
    """Adopt a lease of an earlier leader that is still wanted; take any other back."""
    attempt = picture.attempts.get(status.job_id)
    current = attempt is not None and attempt.spec.attempt == status.attempt
    lease = Lease(
        lease_id=status.lease_id,
        kind=status.kind,
        job_id=status.job_id,
        attempt=status.attempt,
        user=attempt.spec.user if attempt is not None else status.user,
        shape=status.shape,
        worker_id=worker.worker_id,
        granted_at=now,
        acknowledged=True,
        adopted=True,
        lends_cpu=status.lends_cpu,
        orphan=not current or status.lease_id in picture.ended,
    )
    if attempt is not None and not lease.orphan:
        if status.kind is LeaseKind.DRIVER:
            lease.orphan = attempt.driver is not None
        else:
            lease.orphan = picture.settled and attempt.phase is Phase.QUEUED
    runs = attempt is not None and not lease.orphan and status.kind is LeaseKind.DRIVER
    if attempt is not None and runs and attempt.entry is not None:
        picture.withdraw(attempt.entry)
        attempt.entry = None
    picture.missed.pop(status.lease_id, None)
    picture.attach(lease)
    if attempt is not None:
        lease.expected_s = attempts.expected_run_s(picture, attempt, lease)
    if lease.orphan:
        picture.revoke(lease, now, "nothing wants this lease any more", at_once=True)
    elif attempt is not None:
        attempts.refresh_demands(picture, attempt, now)


def _confirm(picture: Picture, lease: Lease, status: LeaseStatus, now: float) -> None:
    lease.acknowledged = True
    _lend(picture, lease, now, lends=status.lends_cpu)
    if status.idle_since is None:
        lease.idle_seen_at = None
    elif lease.idle_seen_at is None:
        lease.idle_seen_at = now
    revoked_long_ago = lease.revoked_at is not None and now - lease.revoked_at > picture.settings.grant_timeout_s
    if revoked_long_ago:
        # The first request may have been lost with the worker's inbox.
        picture.revoke(lease, now, "still to be given back", at_once=lease.revoked_now)


def drain(picture: Picture, worker: Worker, now: float) -> None:
    """Take back the executors of a draining worker: idle ones at once, busy ones after the task in hand.

    A busy one stays while no other worker could hold its shape: else its driver, if that runs here, would wait for
    tasks that run nowhere, and the worker would never become empty.
    """
    for lease in list(worker.leases.values()):
        if lease.kind is not LeaseKind.EXECUTOR or lease.revoked_at is not None:
            continue
        if lease.idle_seen_at is not None or picture.fleet.fits_elsewhere(lease.shape):
            picture.revoke(lease, now, f"worker {worker.worker_id} is draining", at_once=False)
            attempt = picture.attempt_of(lease)
            if attempt is not None:
                attempts.refresh_demands(picture, attempt, now)


def _miss(picture: Picture, worker_id: str, now: float) -> None:
    """Give up what a worker should hold and, having heard of our election, doesn't report."""
    for attempt in list(picture.expected.values()):
        if attempt.expected_on == worker_id:
            text = f"worker {worker_id} no longer runs this attempt"
            attempts.lose_attempt(picture, attempt, now, worker_id, text)
    for lease_id, missed in list(picture.missed.items()):
        if missed.worker_id == worker_id:
            del picture.missed[lease_id]
            cause = f"worker {worker_id} no longer holds its lease"
            attempts.executor_gone(picture, missed.job_id, missed.attempt, lease_id, cause)


def _remind_of_term(picture: Picture, worker: Worker, message: WorkerHeartbeat, now: float) -> None:
    """Tell a worker that missed our election; not at each heartbeat, as its answer is one."""
    if message.term >= picture.term:
        return
    if worker.reminded_at is None or now - worker.reminded_at > _REMIND_S:
        worker.reminded_at = now
        picture.tell_worker(worker.worker_id, SchedulerElected(picture.term))


# --- Ends and losses -----------------------------------------------------------------------------


def lease_ended(picture: Picture, message: LeaseEnded, now: float) -> None:
    """Free a lease at once. A second time, or for a lease that was given up before, changes nothing."""
    worker = picture.fleet.workers.get(message.worker_id)
    lease = worker.leases.get(message.lease_id) if worker is not None else None
    picture.ended.remember(message.lease_id, None)
    if lease is None:
        return
    if message.refused:
        _put_back(picture, lease, now)
        return
    if lease.kind is LeaseKind.DRIVER and not lease.adopted:
        picture.run_times.ran(lease.kind, lease.user, lease.name, now - lease.granted_at)
    attempt = picture.attempt_of(lease)
    if lease.kind is LeaseKind.DRIVER and attempt is not None:
        picture.habits.ended(lease.user, attempt.spec.function_title, had_tasks=bool(attempt.demands))
    picture.release(lease)
    if attempt is None:
        return
    if lease.kind is LeaseKind.EXECUTOR:
        attempts.refresh_demands(picture, attempt, now)
    else:
        attempts.end_attempt(picture, attempt, now, lease.worker_id)


def undeliverable(picture: Picture, worker_id: str, body: object, now: float) -> None:
    """Put back what was granted to a worker whose inbox doesn't exist: it never got it."""
    if not isinstance(body, DriverGranted | ExecutorGranted):
        return
    worker = picture.fleet.workers.get(worker_id)
    lease = worker.leases.get(body.lease_id) if worker is not None else None
    if lease is not None:
        _put_back(picture, lease, now)


def _put_back(picture: Picture, lease: Lease, now: float) -> None:
    """Undo a grant that its worker never took; the worker gets nothing new until its next heartbeat."""
    worker = picture.fleet.workers[lease.worker_id]
    worker.refuses = True
    attempt = picture.attempt_of(lease)
    picture.release(lease)
    picture.fleet.reindex(worker)
    if attempt is None:
        return
    if lease.kind is LeaseKind.DRIVER:
        attempt.driver, attempt.phase = None, Phase.QUEUED
        attempts.enqueue(picture, attempt, now)
    if lease.job_id in picture.attempts:
        attempts.refresh_demands(picture, attempt, now)


def driver_waiting(picture: Picture, message: DriverWaiting, now: float) -> None:
    """Lend the cpu of a waiting driver or executor, or take it back; an older word than the last is dropped."""
    worker = picture.fleet.workers.get(message.worker_id)
    lease = worker.leases.get(message.lease_id) if worker is not None else None
    if lease is None or message.sequence <= lease.waiting_sequence:
        return
    lease.waiting_sequence = message.sequence
    _lend(picture, lease, now, lends=message.waiting)


def _lend(picture: Picture, lease: Lease, now: float, *, lends: bool) -> None:
    """Lend a lease's cpu or take it back; an executor that waits inside its task serves no other task meanwhile."""
    if lease.lends_cpu == lends:
        return
    picture.lend(lease, lends=lends)
    attempt = picture.attempt_of(lease)
    if attempt is not None and lease.kind is LeaseKind.EXECUTOR:
        attempts.refresh_demands(picture, attempt, now)


def stopped(picture: Picture, message: WorkerStopped, now: float) -> None:
    """Forget a worker that said goodbye, and whatever it still held."""
    picture.retired.remember((message.worker_id, message.incarnation), None)
    worker = picture.fleet.workers.get(message.worker_id)
    if worker is not None and worker.incarnation == message.incarnation:
        lose(picture, worker, now, f"worker {worker.worker_id} was stopped", for_good=True)


def lose(picture: Picture, worker: Worker, now: float, text: str, *, for_good: bool) -> None:
    """Give up a worker and all it held; unless `for_good` it may come back with a heartbeat."""
    if for_good:
        picture.retired.remember((worker.worker_id, worker.incarnation), None)
    worker.refuses = True
    picture.fleet.reindex(worker)
    for lease in list(worker.leases.values()):
        if lease.lease_id in worker.leases:
            _lose_lease(picture, lease, now, text)
    if worker.worker_id in picture.reservations:
        picture.drop_reservation(picture.reservations[worker.worker_id])
    picture.fleet.leave(worker, counts_until=now + picture.settings.departed_s)
    picture.fairness.resize(picture.fleet.total)
    picture.changed = True


def _lose_lease(picture: Picture, lease: Lease, now: float, text: str) -> None:
    attempt = picture.attempt_of(lease)
    picture.release(lease)
    if attempt is None:
        return
    if lease.kind is LeaseKind.DRIVER:
        attempts.lose_attempt(picture, attempt, now, lease.worker_id, text)
        return
    attempts.lose_executor(picture, lease, text)
    attempts.refresh_demands(picture, attempt, now)
