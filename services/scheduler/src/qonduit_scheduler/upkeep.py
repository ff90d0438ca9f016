"""What time alone brings about: silence, idleness, and waiting for too long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qonduit_service_kit.messages import LeaseKind, Shape

from qonduit_scheduler import attempts, workers
from qonduit_scheduler.picture import Attempt, Phase, Picture, Reservation
from qonduit_scheduler.policy import deficit, should_yield
from qonduit_scheduler.shapes import NOTHING, add, fits

if TYPE_CHECKING:
    from qonduit_scheduler.fleet import Lease, Worker
    from qonduit_scheduler.waiting import Entry


_OVERDUE_CHECK_S: Final = 1.0
"""Between looks at who waits too long: these alone look at every lane."""


def tick(picture: Picture, now: float) -> None:
    """Do all that is due; called a few times a second."""
    _give_up_silent(picture, now)
    picture.fleet.forget_departed(now)
    if not picture.settled and _all_have_told(picture, now):
        _settle(picture, now)
    take_back_idle(picture, now)
    attempts.tell_again(picture, now)
    if now - picture.overdue_checked_at < _OVERDUE_CHECK_S:
        return
    picture.overdue_checked_at = now
    _keep_reservations(picture, now)
    _reserve(picture, now)
    _make_users_yield(picture, now)


def _give_up_silent(picture: Picture, now: float) -> None:
    bound = picture.settings.lease_ttl_s + picture.settings.grace_s
    for worker in [worker for worker in picture.fleet.workers.values() if now - worker.seen_at > bound]:
        text = f"worker {worker.worker_id} has been silent for {now - worker.seen_at:.0f} s"
        workers.lose(picture, worker, now, text, for_good=False)
    for attempt in [attempt for attempt in picture.expected.values() if now > attempt.expected_until]:
        text = f"worker {attempt.expected_on} has been silent for {bound:.0f} s"
        attempts.lose_attempt(picture, attempt, now, attempt.expected_on, text)
    attempts.give_up_missed(picture, now)


def _all_have_told(picture: Picture, now: float) -> bool:
    """Whether the settle time is over and each worker heard from has answered our election, or had long to."""
    if now < picture.settles_at:
        return False
    if now >= picture.settles_at + picture.settings.grant_timeout_s:
        return True
    return all(worker.elected_us for worker in picture.fleet.workers.values())


def _settle(picture: Picture, now: float) -> None:
    """End the time after a takeover in which workers tell what they run: the rest may be placed or refused."""
    picture.settled = True
    for attempt in list(picture.attempts.values()):
        if attempt.phase is not Phase.QUEUED:
            attempts.refresh_demands(picture, attempt, now)
            continue
        for lease in list(attempt.executors.values()):
            picture.revoke(lease, now, "the job's program doesn't run", at_once=True)
        if attempt.entry is None:
            attempts.enqueue(picture, attempt, now)
    refuse_impossible(picture, now)


def refuse_impossible(picture: Picture, now: float) -> None:
    """Refuse what waits and could no longer fit any worker, after the fleet has changed."""
    if not picture.settled:
        return
    for shape in picture.line.shapes():
        if picture.fleet.could_fit(shape):
            continue
        for entry in picture.line.of_shape(shape):
            attempt = picture.attempts[entry.job_id]
            if entry.kind is LeaseKind.DRIVER:
                attempts.refuse_driver(picture, attempt, now)
            else:
                attempts.refresh_demand(picture, attempt, attempt.demands[shape], now)


def take_back_idle(picture: Picture, now: float) -> None:
    """Take back executors beyond what their job's unfinished tasks need, once they idle.

    At once if anybody waits for room, else after `idle_s`: the next tasks may be on their way.
    """
    if not picture.settled:
        return
    patience = 0.0 if picture.line.entries else picture.settings.idle_s
    for attempt in picture.with_executors.values():
        for lease in _surplus(attempt):
            if lease.idle_seen_at is not None and now - lease.idle_seen_at >= patience:
                picture.revoke(lease, now, "no task is left for this executor", at_once=False)


def _surplus(attempt: Attempt) -> list[Lease]:
    """Return idle executors that an attempt could do without, longest idle first."""
    idle: dict[Shape, list[Lease]] = {}
    held: dict[Shape, int] = {}
    for lease in attempt.executors.values():
        if lease.revoked_at is None:
            held[lease.shape] = held.get(lease.shape, 0) + 1
            if lease.idle_seen_at is not None:
                idle.setdefault(lease.shape, []).append(lease)
    surplus: list[Lease] = []
    for shape, leases in idle.items():
        demand = attempt.demands.get(shape)
        spare = held[shape] - (demand.message.unfinished if demand is not None else 0)
        leases.sort(key=lambda lease: (lease.idle_seen_at or 0.0, lease.lease_id))
        surplus.extend(leases[: max(spare, 0)])
    return surplus


# --- Waiting for too long ------------------------------------------------------------------------


def _keep_reservations(picture: Picture, now: float) -> None:
    """Drop reservations that can't be met any more; go on asking executors of the others' workers to go."""
    for reservation in list(picture.reservations.values()):
        worker = picture.fleet.workers.get(reservation.worker_id)
        if worker is None or not worker.is_open or not fits(reservation.shape, worker.capacity):
            picture.drop_reservation(reservation)
        elif reservation.overdue:
            _ask_executors_back(picture, picture.line.entries[reservation.key], worker, now, users=None)


def _reserve(picture: Picture, now: float) -> None:
    """Keep a worker free for whoever has waited past the bound, one at a time, so that big shapes don't starve."""
    if any(reservation.overdue for reservation in picture.reservations.values()):
        return
    bound = now - picture.settings.reservation_after_s
    overdue = [entry for entry in picture.line.heads() if entry.waiting_since <= bound]
    for entry in sorted(overdue, key=lambda entry: (entry.waiting_since, entry.key)):
        if entry.key in picture.reserved_for:
            picture.drop_reservation(picture.reserved_for[entry.key])
        worker = _nearest_worker(picture, entry)
        if worker is not None:
            picture.reserve(Reservation(entry.key, entry.user, entry.shape, worker.worker_id, now, overdue=True))
            return


def _nearest_worker(picture: Picture, entry: Entry) -> Worker | None:
    """Return the open worker that could hold the shape and lacks least of it now."""
    return min(
        (
            worker
            for worker in picture.fleet.workers.values()
            if worker.is_open and worker.worker_id not in picture.reservations and fits(entry.shape, worker.capacity)
        ),
        key=lambda worker: (deficit(entry.shape, worker.free), worker.worker_id),
        default=None,
    )


def _make_users_yield(picture: Picture, now: float) -> None:
    """Let the user who holds most give executors back to one with a smaller share who has waited long enough."""
    used, total = picture.fairness.used, picture.fairness.total
    served = {reservation.user for reservation in picture.reservations.values()}
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
    heads = (line.entries[lane[0]] for lane in line.lanes[user].values())
    return min(
        (
            entry
            for entry in heads
            if entry.waiting_since <= bound and (entry.asked_for_room_at is None or entry.asked_for_room_at <= bound)
        ),
        key=lambda entry: entry.key,
        default=None,
    )


def _ask_holder(picture: Picture, entry: Entry, holder: str, now: float) -> None:
    entry.asked_for_room_at = now
    names = sorted({lease.worker_id for lease in picture.executors_of[holder].values()})
    for name in names:
        worker = picture.fleet.workers[name]
        if not worker.is_open or name in picture.reservations:
            continue
        if _ask_executors_back(picture, entry, worker, now, users={holder}):
            # What they free is kept until all of it is there: others would take it piece by piece.
            picture.reserve(Reservation(entry.key, entry.user, entry.shape, name, now, overdue=False))
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
    """Return the youngest executors that make room together with what is on its way back, or None if all don't."""
    executors = [
        lease
        for lease in worker.leases.values()
        if lease.kind is LeaseKind.EXECUTOR and (lease.job_id, lease.attempt) != (entry.job_id, entry.attempt)
    ]
    room = worker.free
    for lease in executors:
        if lease.revoked_at is not None:
            room = add(room, lease.shape)
    chosen: list[Lease] = []
    for lease in reversed(executors):
        if fits(entry.shape, room):
            break
        if lease.revoked_at is None and (users is None or lease.user in users):
            room = add(room, lease.shape)
            chosen.append(lease)
    return chosen if fits(entry.shape, room) else None
