"""Placing what waits: the user with the smallest share first, on the worker that fits best."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qonduit_service_kit.messages import DriverGranted, ExecutorGranted, LeaseKind, Shape

from qonduit_scheduler.attempts import refresh_demands
from qonduit_scheduler.fleet import Lease, Worker
from qonduit_scheduler.policy import fits_beside
from qonduit_scheduler.shapes import add, fits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qonduit_scheduler.picture import Attempt, Picture
    from qonduit_scheduler.waiting import Entry


def place_all(picture: Picture, now: float) -> None:
    """Grant leases until nothing that waits fits any more.

    Only shapes with hope are looked at: new ones, and those that fit a worker that has grown. While
    this runs room only shrinks, so a shape or a user without a place stays without one to the end.
    """
    _serve_reservations(picture, now)
    order = picture.fairness.order
    position = 0
    while picture.hope and position < len(order):
        entry = _best_entry(picture, order[position][1])
        if entry is None:
            position += 1
            continue
        worker = _find_worker(picture, entry)
        if worker is None:
            picture.hope.pop(entry.shape, None)
            continue
        reserved = entry.key in picture.reserved_for
        grant(picture, entry, worker, now)
        _give_up_hope(picture, worker)
        if reserved:
            # The reserved one found a place elsewhere: its worker is there for everybody again.
            position = 0
    picture.hope.clear()


def _give_up_hope(picture: Picture, worker: Worker) -> None:
    """Forget the shapes that could have fitted only a worker that is fuller now."""
    free = worker.free
    for shape, hoped in list(picture.hope.items()):
        if hoped is not None and worker.worker_id in hoped and not fits(shape, free):
            hoped.remove(worker.worker_id)
            if not hoped:
                del picture.hope[shape]


def _serve_reservations(picture: Picture, now: float) -> None:
    for reservation in list(picture.reservations.values()):
        worker = picture.fleet.workers.get(reservation.worker_id)
        if worker is None or not worker.is_open:
            picture.drop_reservation(reservation)
        elif fits(reservation.shape, worker.free):
            grant(picture, picture.line.entries[reservation.key], worker, now)


def _best_entry(picture: Picture, user: str) -> Entry | None:
    """Return the user's first entry, by priority and age, whose shape has hope."""
    lanes, hope = picture.line.lanes[user], picture.hope
    shapes = (
        [shape for shape in lanes if shape in hope]
        if len(lanes) <= len(hope)
        else [shape for shape in hope if shape in lanes]
    )
    if not shapes:
        return None
    return picture.line.entries[min(lanes[shape][0] for shape in shapes)]


def _find_worker(picture: Picture, entry: Entry) -> Worker | None:
    """Return the driver's own worker if it has room, else the best fit, else None."""
    near = _driver_worker(picture, entry)
    if near is not None and _may_take(picture, near, entry):
        return near
    fitting = (worker for worker in _candidates(picture, entry.shape) if _may_take(picture, worker, entry))
    return picture.fleet.tightest(fitting, entry.shape)


def _driver_worker(picture: Picture, entry: Entry) -> Worker | None:
    if entry.kind is LeaseKind.DRIVER:
        return None
    driver = picture.attempts[entry.job_id].driver
    return None if driver is None else picture.fleet.workers.get(driver.worker_id)


def _candidates(picture: Picture, shape: Shape) -> Iterator[Worker]:
    hoped = picture.hope[shape]
    names = hoped if hoped is not None else (name for name, _ in picture.fleet.index.fitting(shape))
    return (picture.fleet.workers[name] for name in names if name in picture.fleet.workers)


def _may_take(picture: Picture, worker: Worker, entry: Entry) -> bool:
    """Whether there is room now, and without delaying the one a worker is kept for."""
    if not worker.is_open or not fits(entry.shape, worker.free):
        return False
    reservation = picture.reservations.get(worker.worker_id)
    if reservation is None or reservation.key == entry.key:
        return True
    coming = worker.free
    for lease in worker.leases.values():
        if lease.revoked_at is not None:
            coming = add(coming, lease.shape)
    if fits(reservation.shape, coming):
        return fits(add(entry.shape, reservation.shape), coming)
    backfilled = (lease.shape for lease in worker.leases.values() if lease.granted_at >= reservation.since)
    return fits_beside(entry.shape, reserved=reservation.shape, backfilled=backfilled, capacity=worker.capacity)


def grant(picture: Picture, entry: Entry, worker: Worker, now: float) -> None:
    """Give an entry, or one of its count, a lease on a worker."""
    attempt = picture.attempts[entry.job_id]
    lease = Lease(
        lease_id=picture.next_lease_id(),
        kind=entry.kind,
        job_id=entry.job_id,
        attempt=entry.attempt,
        user=entry.user,
        shape=entry.shape,
        worker_id=worker.worker_id,
        granted_at=now,
    )
    if entry.key in picture.reserved_for:
        picture.drop_reservation(picture.reserved_for[entry.key])
    picture.tally.placements[entry.kind] += 1
    picture.tally.waits_s.append((entry.kind, now - entry.waiting_since))
    if entry.kind is LeaseKind.DRIVER:
        picture.withdraw(entry)
        attempt.entry = None
        picture.attach(lease)
        body = DriverGranted(picture.term, lease.lease_id, attempt.spec, worker.incarnation)
        picture.tell_worker(worker.worker_id, body)
    else:
        picture.attach(lease)
        picture.tell_worker(worker.worker_id, _executor_grant(picture.term, attempt, lease, worker))
        entry.waiting_since, entry.asked_for_room_at = now, None
    refresh_demands(picture, attempt, now)


def _executor_grant(term: int, attempt: Attempt, lease: Lease, worker: Worker) -> ExecutorGranted:
    message = attempt.demands[lease.shape].message
    return ExecutorGranted(
        term=term,
        lease_id=lease.lease_id,
        job_id=lease.job_id,
        attempt=lease.attempt,
        user=lease.user,
        shape=lease.shape,
        driver_worker_id=message.worker_id,
        storage_ticket=message.storage_ticket,
        environment=message.environment,
        artifact_digest=message.artifact_digest,
        dependencies=message.dependencies,
        incarnation=worker.incarnation,
    )
