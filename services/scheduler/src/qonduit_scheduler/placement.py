"""Placing what waits: the most urgent first, users by their share, on the worker that fits best."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.messages import DriverGranted, ExecutorGranted, LeaseKind, Shape

from qonduit_scheduler.attempts import expected_run_s, refresh_demands
from qonduit_scheduler.fleet import Lease, Worker
from qonduit_scheduler.policy import size_credit, urgency
from qonduit_scheduler.reserving import Passing, longest_in_time, passing, renew
from qonduit_scheduler.shapes import fits
from qonduit_scheduler.waiting import USERS_COMPARED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qonduit_scheduler.picture import Attempt, Picture, Reservation
    from qonduit_scheduler.waiting import Entry

_ENTRIES_COMPARED: Final = 8
"""Entries of a lane among which one is sought that is short enough to pass."""


def place_all(picture: Picture, now: float) -> None:
    """Grant leases until nothing that waits fits any more.

    Only shapes with hope are looked at: new ones, and those that fit a worker that has grown. While this runs
    room only shrinks, so a shape without a place stays without one to the end, but for those short enough to pass
    one that a worker is kept for.
    """
    picture.admit_again(now)
    _serve_reservations(picture, now)
    if not picture.hope:
        return
    search = _Search(picture, now)
    while picture.hope:
        entry = search.next_entry()
        if entry is None:
            break
        worker = _find_worker(picture, entry, now)
        if worker is None:
            search.exclude(entry)
            continue
        grant(picture, entry, worker, now)
        _give_up_hope(picture, worker)
    picture.hope.clear()


class _Search:
    """Finds what to place next: the user whose most urgent entry is most urgent, then that user's order."""

    def __init__(self, picture: Picture, now: float) -> None:
        self._picture = picture
        self._now = now
        self._entitled = picture.fairness.entitled()
        self._limits_s: dict[Shape, float] = {}
        """Of some shapes only what is predicted to run no longer than this has hope."""

    def exclude(self, entry: Entry) -> None:
        """Give up hope for all of an entry's shape that run at least as long as it."""
        longest_s = longest_in_time(self._picture, entry, self._now) if self._picture.reservations else -1.0
        if 0 <= longest_s < entry.holds_s:
            self._limits_s[entry.shape] = longest_s
        else:
            self._picture.hope.pop(entry.shape, None)

    def next_entry(self) -> Entry | None:
        """Return what to place next, or None if nothing has hope."""
        user = self._most_urgent_user()
        return None if user is None else self._first_of(user)

    def _most_urgent_user(self) -> str | None:
        picture, settings = self._picture, self._picture.settings
        best: tuple[float, float, str] | None = None
        for shape in picture.hope:
            credit_s = size_credit(picture.fleet.size_of(shape), settings)
            for due_at, user in islice(picture.line.due[shape], USERS_COMPARED):
                due_in_s = due_at - self._now
                if best is not None and max(due_in_s, -settings.lateness_s - credit_s) > best[0]:
                    break
                if shape in self._limits_s and self._candidate(user, shape) is None:
                    continue
                share = picture.fairness.share_of_waiting(user)
                urgent = urgency(
                    due_in_s=due_in_s, credit_s=credit_s, share=share, entitled=self._entitled, settings=settings
                )
                if best is None or (urgent, due_at, user) < best:
                    best = (urgent, due_at, user)
        return None if best is None else best[2]

    def _first_of(self, user: str) -> Entry | None:
        """Return the user's first entry, by priority and due date, that has hope."""
        lanes, hope = self._picture.line.lanes[user], self._picture.hope
        shapes = (shape for shape in lanes if shape in hope) if len(lanes) <= len(hope) else hope
        candidates = (self._candidate(user, shape) for shape in shapes if shape in lanes)
        return min((entry for entry in candidates if entry is not None), key=lambda entry: entry.key, default=None)

    def _candidate(self, user: str, shape: Shape) -> Entry | None:
        """Return the first of the first few of a lane that is short enough."""
        line = self._picture.line
        lane = line.lanes[user][shape]
        limit_s = self._limits_s.get(shape)
        if limit_s is None:
            return None if lane.head is None else line.entries[lane.head]
        entries = (line.entries[key] for key in islice(lane.keys(), _ENTRIES_COMPARED))
        return next((entry for entry in entries if entry.holds_s <= limit_s), None)


def _give_up_hope(picture: Picture, worker: Worker) -> None:
    """Forget the shapes that could have fitted only a worker that is fuller now."""
    free = worker.free
    for shape, hoped in list(picture.hope.items()):
        if hoped is not None and worker.worker_id in hoped and not fits(shape, free):
            hoped.remove(worker.worker_id)
            if not hoped:
                del picture.hope[shape]


def _serve_reservations(picture: Picture, now: float) -> None:
    """Grant what has a worker kept for it that has room now, then keep one for the next at once, before others pass.

    Who is most urgent may have changed since workers were kept, so that is looked at again before.
    """
    served = False
    while _servable(picture):
        renew(picture, now)
        for reservation in _servable(picture):
            # With the one before its job, or its user, may have come to a limit.
            if reservation.key in picture.reserved_for:
                entry = picture.line.entries[reservation.key]
                grant(picture, entry, picture.fleet.workers[reservation.worker_id], now)
                served = True
    if served:
        renew(picture, now)


def _servable(picture: Picture) -> list[Reservation]:
    """Return the reservations whose workers have room; those of workers that take nothing are dropped."""
    found = []
    for reservation in list(picture.reservations.values()):
        worker = picture.fleet.workers.get(reservation.worker_id)
        if worker is None or not worker.is_open:
            picture.drop_reservation(reservation)
        elif fits(reservation.shape, worker.free):
            found.append(reservation)
    return found


def _find_worker(picture: Picture, entry: Entry, now: float) -> Worker | None:
    """Return the driver's own worker if it has room, else the best fit, else None."""
    near = _driver_worker(picture, entry)
    if near is not None and _may_take(picture, near, entry, now):
        return near
    fitting = (worker for worker in _candidates(picture, entry.shape) if _may_take(picture, worker, entry, now))
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


def _may_take(picture: Picture, worker: Worker, entry: Entry, now: float) -> bool:
    """Whether there is room now, and without delaying the one a worker is kept for."""
    if not worker.is_open or not fits(entry.shape, worker.free):
        return False
    return passing(picture, worker, entry, now) is not Passing.NOT


def grant(picture: Picture, entry: Entry, worker: Worker, now: float) -> None:
    """Give an entry, or one of its count, a lease on a worker."""
    attempt = picture.attempts[entry.job_id]
    lease = Lease(
        lease_id=picture.next_lease_id(),
        kind=entry.kind,
        job_id=entry.job_id,
        attempt=entry.attempt,
        user=entry.user,
        shape=entry.asked,
        worker_id=worker.worker_id,
        granted_at=now,
        name=attempt.spec.function_title if entry.kind is LeaseKind.DRIVER else "",
    )
    lease.beside = passing(picture, worker, entry, now) is Passing.BESIDE
    lease.expected_s = expected_run_s(picture, attempt, lease)
    if entry.key in picture.reserved_for:
        picture.drop_reservation(picture.reserved_for[entry.key])
    picture.tally.placements[entry.kind] += 1
    picture.tally.waits_s.append((entry.kind, now - picture.line.wants_room_since(entry)))
    if entry.kind is LeaseKind.DRIVER:
        picture.withdraw(entry)
        attempt.entry = None
        picture.attach(lease)
        body = DriverGranted(picture.term, lease.lease_id, attempt.spec, worker.incarnation)
        picture.tell_worker(worker.worker_id, body)
    else:
        picture.attach(lease)
        picture.tell_worker(worker.worker_id, _executor_grant(picture.term, attempt, lease, worker))
        entry.waiting_since, entry.asked_for_room_at, entry.trusts_until = now, None, None
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
        qpu_budget_s=message.qpu_budget_s,
        user_qpu_budget_s=message.user_qpu_budget_s,
        files=message.files,
        traceparent=message.traceparent,
        space=message.space,
        provider_space=message.provider_space,
        incarnation=worker.incarnation,
    )
