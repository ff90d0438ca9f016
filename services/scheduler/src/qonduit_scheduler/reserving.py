"""Workers kept free for the most urgent that wait, and users who give executors back to others."""

from __future__ import annotations

import math
from enum import Enum, auto
from heapq import nsmallest
from itertools import islice
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.messages import LeaseKind, Shape

from qonduit_scheduler import attempts
from qonduit_scheduler.picture import Picture, Reservation
from qonduit_scheduler.policy import deficit, opening, should_yield, size_credit, urgency
from qonduit_scheduler.shapes import NOTHING, add, fits

if TYPE_CHECKING:
    from qonduit_scheduler.fleet import Lease, Worker
    from qonduit_scheduler.waiting import Entry, EntryKey


class Passing(Enum):
    """How something can go on a worker, seen from the one for which the worker is kept."""

    NOT = auto()
    FREELY = auto()
    """Nobody else waits for this worker."""
    IN_TIME = auto()
    BESIDE = auto()


_COMPARED: Final = 64
"""Workers that could hold a shape, most free first, among which the one that is free first is kept: bounds the time."""


def renew(picture: Picture, now: float) -> None:
    """Keep workers free for the most urgent that wait, each the one that is predicted to have room first.

    Chosen anew each time, as predictions change, but for reservations by which executors were asked to go and
    those whose owner has been late for long: they stay where they are.
    """
    former, claimed = dict(picture.reservations), now - picture.settings.claim_after_s
    stay = {r.worker_id: r for r in former.values() if _stays(picture, r, now)}
    picture.reservations, picture.reserved_for = stay, {r.key: r for r in stay.values()}
    most = max(1, min(picture.settings.reservations, int(len(picture.fleet.workers) * picture.settings.kept_fraction)))
    kept = sum(reservation.head for reservation in stay.values())
    for entry in _most_urgent(picture, now, most + len(stay)):
        if kept >= most:
            break
        held = picture.reserved_for.get(entry.key)
        if held is not None and (held.head or picture.line.wants_room_since(entry) > claimed):
            continue
        if held is not None:
            picture.drop_reservation(held)
        kept += _reserve(picture, entry, former, now)
    for worker_id in dict.fromkeys((*former, *picture.reservations)):
        # A worker is there for all again, or time alone has made room beside its owner: short ones may pass.
        if worker_id in picture.fleet.workers:
            picture.grew(picture.fleet.workers[worker_id])
    for reservation in list(picture.reservations.values()):
        entry = picture.line.entries[reservation.key]
        if reservation.head and picture.line.wants_room_since(entry) <= claimed:
            _ask_executors_back(picture, entry, picture.fleet.workers[reservation.worker_id], now, users=None)


def _stays(picture: Picture, reservation: Reservation, now: float) -> bool:
    worker = picture.fleet.workers.get(reservation.worker_id)
    if worker is None or not worker.is_open or not fits(reservation.shape, worker.capacity):
        return False
    asked = any(lease.kind is LeaseKind.EXECUTOR and lease.revoked_at is not None for lease in worker.leases.values())
    return not reservation.head or asked or now >= reservation.strict_at


def _reserve(picture: Picture, entry: Entry, former: dict[str, Reservation], now: float) -> bool:
    """Keep a worker free for an entry; False if none could ever have room."""
    found = _first_open(picture, entry, now)
    if found is None:
        return False
    worker = found[0]
    if entry.trusts_until is None:
        entry.trusts_until = now + picture.settings.trust_s
    before = former.get(worker.worker_id)
    since = before.since if before is not None and before.key == entry.key else now
    picture.reserve(
        Reservation(
            entry.key,
            entry.user,
            entry.shape,
            worker.worker_id,
            since,
            head=True,
            strict_at=entry.trusts_until,
        )
    )
    return True


def _most_urgent(picture: Picture, now: float, count: int) -> list[Entry]:
    """Return the most urgent entries, at most one of a user and shape, in the order in which they would be placed."""
    settings, fairness, entitled = picture.settings, picture.fairness, picture.fairness.entitled()

    def order(entry: Entry) -> tuple[float, EntryKey]:
        urgent = urgency(
            due_in_s=entry.due_at - now,
            credit_s=size_credit(picture.fleet.size_of(entry.shape), settings),
            share=fairness.share_of_waiting(entry.user),
            entitled=entitled,
            settings=settings,
        )
        return urgent, entry.key

    return nsmallest(count, picture.line.heads(), key=order)


def _first_open(picture: Picture, entry: Entry, now: float) -> tuple[Worker, float] | None:
    """Return the open worker that is predicted to have room first, and in how many seconds that will be."""
    possible = islice(
        (
            worker
            for worker in picture.fleet.most_free_first(entry.shape)
            if worker.worker_id not in picture.reservations and fits(entry.shape, worker.capacity)
        ),
        _COMPARED,
    )
    best: tuple[float, float, str] | None = None
    for worker in possible:
        opens = opening(worker.free, ends(worker, entry, None, now), entry.shape)
        if opens is not None:
            score = (opens[0], deficit(entry.shape, worker.free), worker.worker_id)
            best = score if best is None or score < best else best
    return None if best is None else (picture.fleet.workers[best[2]], best[0])


def ends(worker: Worker, entry: Entry, reservation: Reservation | None, now: float) -> list[tuple[float, Shape]]:
    """Return what comes free on a worker when (in seconds from now), soonest first, as far as an entry may wait for it.

    Not so its own job's driver and those of its executors that wait inside their tasks, which end after it, nor
    what was let onto the worker beside it.
    """
    trusted = reservation is None or now < reservation.strict_at
    since = math.inf if reservation is None else reservation.since
    return sorted(
        (lease.ends_in_s(now), lease.held)
        for lease in worker.leases.values()
        if (lease.granted_at < since or (trusted and not lease.beside))
        and (
            (lease.job_id, lease.attempt) != (entry.job_id, entry.attempt)
            or (lease.kind is LeaseKind.EXECUTOR and not lease.lends_cpu)
        )
    )


def _opens(picture: Picture, worker: Worker, reservation: Reservation, now: float) -> tuple[float, Shape] | None:
    """Return in how many seconds a kept worker has room for its owner, and what it has free then; None if never."""
    owner = picture.line.entries[reservation.key]
    return opening(worker.free, ends(worker, owner, reservation, now), reservation.shape)


def passing(picture: Picture, worker: Worker, entry: Entry, now: float) -> Passing:
    """Say how an entry can go on a worker that may be kept for another, without delaying that one.

    EASY backfill: it ends before the other can begin, or fits beside it then. Predictions may be wrong; once the
    other has had a worker kept for `trust_s`, nothing is trusted to end in time any more, so that it can't be passed
    for ever.
    """
    reservation = picture.reservations.get(worker.worker_id)
    if reservation is None or reservation.key == entry.key:
        return Passing.FREELY
    opens = _opens(picture, worker, reservation, now)
    if opens is None:
        return Passing.NOT
    opens_in_s, room = opens
    if entry.holds_s * picture.settings.margin <= opens_in_s and now < reservation.strict_at:
        return Passing.IN_TIME
    return Passing.BESIDE if fits(add(entry.shape, reservation.shape), room) else Passing.NOT


def longest_in_time(picture: Picture, entry: Entry, now: float) -> float:
    """Return for how many seconds something of an entry's shape may run to go on a worker kept for another.

    Negative if it can't, however short it is.
    """
    longest_s = -1.0
    for reservation in picture.reservations.values():
        worker = picture.fleet.workers[reservation.worker_id]
        if now < reservation.strict_at and worker.is_open and fits(entry.shape, worker.free):
            opens = _opens(picture, worker, reservation, now)
            longest_s = max(longest_s, opens[0] / picture.settings.margin if opens is not None else -1.0)
    return longest_s


# --- Users who hold more ------------------------------------------------------------------------


def make_users_yield(picture: Picture, now: float) -> None:
    """Let the user who holds most give executors back to one with a smaller share who has waited long enough."""
    used, total = picture.fairness.used, picture.fairness.total
    served = {reservation.user for reservation in picture.reservations.values() if not reservation.head}
    for _, user in picture.fairness.order:
        if user in served:
            continue
        entry = _longest_waiting(picture, user, now)
        if entry is None:
            continue
        holders = [
            holder
            for holder in picture.executors_of
            if holder != user
            and should_yield(
                waiting_used=used.get(user, NOTHING), need=entry.shape, holder_used=used[holder], total=total
            )
        ]
        if holders:
            holder = max(holders, key=lambda name: (picture.fairness.share(name), name))
            _ask_holder(picture, entry, holder, now)
        return


def _longest_waiting(picture: Picture, user: str, now: float) -> Entry | None:
    """Return a user's entry that has waited past the bound and for which nobody was asked lately."""
    bound = now - picture.settings.yield_after_s
    line = picture.line
    heads = (line.entries[lane.head] for lane in line.lanes[user].values() if lane.head is not None)
    return min(
        (
            entry
            for entry in heads
            if line.wants_room_since(entry) <= bound
            and (entry.asked_for_room_at is None or entry.asked_for_room_at <= bound)
        ),
        key=lambda entry: entry.key,
        default=None,
    )


def _ask_holder(picture: Picture, entry: Entry, holder: str, now: float) -> None:
    entry.asked_for_room_at = now
    names = sorted({lease.worker_id for lease in picture.executors_of[holder].values()})
    for name in names:
        worker, kept_for = picture.fleet.workers[name], picture.reservations.get(name)
        if not worker.is_open or (kept_for is not None and kept_for.key != entry.key):
            continue
        if _ask_executors_back(picture, entry, worker, now, users={holder}):
            # What they free is kept until all of it is there: others would take it piece by piece.
            if entry.key in picture.reserved_for:
                picture.drop_reservation(picture.reserved_for[entry.key])
            picture.reserve(Reservation(entry.key, entry.user, entry.shape, name, now, head=False))
            return


def _ask_executors_back(picture: Picture, entry: Entry, worker: Worker, now: float, *, users: set[str] | None) -> bool:
    """Ask for as many executors, after the task in hand, as make room for an entry; False if there are too few."""
    chosen = _enough_executors(entry, worker, users)
    if chosen is None:
        return False
    for lease in chosen:
        picture.revoke(lease, now, "others have waited for long", at_once=False)
    for job_id in dict.fromkeys(lease.job_id for lease in chosen):
        if job_id in picture.attempts:
            attempts.refresh_demands(picture, picture.attempts[job_id], now)
    return True


def _enough_executors(entry: Entry, worker: Worker, users: set[str] | None) -> list[Lease] | None:
    """Return the youngest executors that make room together with what is on its way back, or None if all don't.

    Executors that wait inside a task aren't asked: they end when others have run, and their cpu is free already.
    """
    executors = [
        lease
        for lease in worker.leases.values()
        if lease.kind is LeaseKind.EXECUTOR and (lease.job_id, lease.attempt) != (entry.job_id, entry.attempt)
    ]
    room = worker.free
    for lease in executors:
        if lease.revoked_at is not None:
            room = add(room, lease.held)
    chosen: list[Lease] = []
    for lease in reversed(executors):
        if fits(entry.shape, room):
            break
        if lease.serves and (users is None or lease.user in users):
            room = add(room, lease.held)
            chosen.append(lease)
    return chosen if fits(entry.shape, room) else None
