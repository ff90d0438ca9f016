"""What time alone brings about: silence, idleness, and waiting for too long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qonduit_service_kit.messages import LeaseKind, Shape

from qonduit_scheduler import attempts, reserving, workers
from qonduit_scheduler.picture import Attempt, Phase, Picture

if TYPE_CHECKING:
    from qonduit_scheduler.fleet import Lease

_KEEP_AGAIN_S: Final = 1.0
"""Between choices of the workers that are kept free, and looks at who should yield: these look at many lanes."""


def tick(picture: Picture, now: float) -> None:
    """Do all that is due; called a few times a second."""
    _give_up_silent(picture, now)
    picture.fleet.forget_departed(now)
    if not picture.settled and _all_have_told(picture, now):
        _settle(picture, now)
    take_back_idle(picture, now)
    for worker in picture.fleet.draining():
        workers.drain(picture, worker, now)
    attempts.tell_again(picture, now)
    if now - picture.kept_at < _KEEP_AGAIN_S:
        return
    picture.kept_at = now
    reserving.renew(picture, now)
    reserving.make_users_yield(picture, now)


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
            picture.running.give_back(attempt.spec.user, attempt.spec.job_id)
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
                attempts.enqueue_again(picture, attempt, now)
            else:
                attempts.refresh_demand(picture, attempt, attempt.demands[shape], now)


def take_back_idle(picture: Picture, now: float) -> None:
    """Take back executors beyond what their job's unfinished tasks need, once they idle.

    At once if anybody waits for room, else after `idle_s`: the next tasks may be on their way.
    """
    if not picture.settled:
        return
    patience = 0.0 if picture.line.due else picture.settings.idle_s
    for attempt in picture.with_executors.values():
        for lease in _surplus(attempt):
            if lease.idle_seen_at is not None and now - lease.idle_seen_at >= patience:
                picture.revoke(lease, now, "no task is left for this executor", at_once=False)


def _surplus(attempt: Attempt) -> list[Lease]:
    """Return idle executors that an attempt could do without, longest idle first."""
    idle: dict[Shape, list[Lease]] = {}
    held: dict[Shape, int] = {}
    for lease in attempt.executors.values():
        if lease.serves:
            held[lease.shape] = held.get(lease.shape, 0) + 1
            if lease.idle_seen_at is not None:
                idle.setdefault(lease.shape, []).append(lease)
    surplus: list[Lease] = []
    for shape, leases in idle.items():
        demand = attempt.demands.get(shape)
        spare = held.get(shape, 0) - (demand.runnable if demand is not None else 0)
        leases.sort(key=lambda lease: (lease.idle_seen_at or 0.0, lease.lease_id))
        surplus.extend(leases[: max(spare, 0)])
    return surplus
