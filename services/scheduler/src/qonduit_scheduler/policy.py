"""The scheduling policy: small pure functions, each with its source.

Nothing here knows events, workers' connections or time's passing; the simulator may swap any of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qonduit_scheduler.shapes import add, fits

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qonduit_service_kit.messages import Shape


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """Times, in seconds, that shape the scheduler's decisions."""

    lease_ttl_s: float = 30.0
    """A worker that is silent for this long has ended its leases by itself."""
    grace_s: float = 15.0
    """Added to `lease_ttl_s` before others act on a worker's silence."""
    grant_timeout_s: float = 10.0
    """A grant that a worker's heartbeats don't show after this long is lost."""
    unheard_s: float = 60.0
    """The end of an attempt that the gateway hasn't answered after this long is told to it (again)."""
    settle_s: float = 2.0
    """After a takeover: time for the workers to tell which of the queued jobs they already run."""
    idle_s: float = 2.0
    """An executor more than its job needs is taken back after idling this long, at once if others wait."""
    yield_after_s: float = 5.0
    """Waiting this long makes users who hold more give executors back after the task in hand."""
    reservation_after_s: float = 120.0
    """Waiting this long makes a worker be kept free for the one who waits, most urgent first."""
    reservations: int = 16
    """Most workers kept free at a time."""
    kept_fraction: float = 0.5
    """And no more of all workers than this, but one."""
    trust_s: float = 3600.0
    """One who has had a worker kept for this long is no longer passed by what is predicted to end in time."""
    stretch: float = 20.0
    """What waits is due after this many times its predicted run time, so that short ones go first."""
    patience_s: float = 2000.0
    """Nothing is due later than this, however long it will run, unless the work that waits already takes longer."""
    size_credit_s: float = 1000.0
    """A shape of a whole worker is due this much sooner: room for it is rare."""
    unfairness_s: float = 6000.0
    """Holding the whole cluster beyond one's fair share makes all that a user wants less urgent by this."""
    lateness_s: float = 600.0
    """Being due sooner, or overdue for longer, than this counts no more between users who hold more and less."""
    unknown_s: float = 60.0
    """Predicted run time where nothing is known."""
    departed_s: float = 60.0
    """A worker that left counts this long when asking whether a shape could ever fit."""
    report_s: float = 1.0
    """Shortest time between two cluster reports."""
    report_quiet_s: float = 10.0
    """Longest time between two cluster reports."""


def dominant_share(used: Shape, total: Shape) -> float:
    """Return a user's dominant share, 0 to 1: the largest fraction held of any one resource.

    Ghodsi et al., "Dominant Resource Fairness", NSDI 2011, section 4.1: s_i = max_j(u_ij / r_j).
    """
    return max(
        used.cpu_millis / total.cpu_millis if total.cpu_millis > 0 else 0.0,
        used.mem_bytes / total.mem_bytes if total.mem_bytes > 0 else 0.0,
        used.gpus / total.gpus if total.gpus > 0 else 0.0,
    )


def leftover(free: Shape, need: Shape, total: Shape) -> float:
    """Return what a worker would have left, summed as fractions of the cluster: less is a better fit.

    Multi-dimensional best fit (Panigrahy et al., "Heuristics for Vector Bin Packing", 2011), each resource
    weighted by its scarcity in the cluster, so that a job without gpus leaves the gpu machines alone.
    """
    return (
        (free.cpu_millis - need.cpu_millis) / max(total.cpu_millis, 1)
        + (free.mem_bytes - need.mem_bytes) / max(total.mem_bytes, 1)
        + (free.gpus - need.gpus) / max(total.gpus, 1)
    )


def deficit(need: Shape, room: Shape) -> float:
    """Return how far `room` is from holding `need`, summed over resources as fractions of the need; 0 if it fits."""
    return (
        max(0, need.cpu_millis - room.cpu_millis) / max(need.cpu_millis, 1)
        + max(0, need.mem_bytes - room.mem_bytes) / max(need.mem_bytes, 1)
        + max(0, need.gpus - room.gpus) / max(need.gpus, 1)
    )


def should_yield(*, waiting_used: Shape, need: Shape, holder_used: Shape, total: Shape) -> bool:
    """Whether a user who waits may ask a holder to give executors back.

    Only if the one who waits would hold less afterwards than the holder holds now: taking turns that
    way ends, because it always lowers the larger share (the condition Kueue's fair sharing proves free of loops).
    """
    return dominant_share(add(waiting_used, need), total) < dominant_share(holder_used, total)


def due_after(*, expected_s: float, size: float, backlog_s: float, settings: PolicySettings) -> float:
    """Return after how many seconds of waiting something is due; may be negative.

    Earliest due date first with a date relative to the run time is shortest job first among what came at about
    the same time, and first come, first served over long times, so that nothing is passed for ever (the aim of
    bounded slowdown: Feitelson et al., "Theory and Practice in Parallel Job Scheduling", 1997). `size` is the
    largest fraction of the largest worker that the shape takes; `backlog_s` is for how long the cluster would work for
    what waits already: a long one can't expect to be served before, and if it did, all would be late and short ones
    not short any more.
    """
    patience_s = max(settings.patience_s, backlog_s)
    return min(settings.stretch * expected_s, patience_s) - settings.size_credit_s * size


def urgency(*, due_in_s: float, share: float, entitled: float, settings: PolicySettings) -> float:
    """Return the order between users, lowest first: seconds until due, more for users above their fair share.

    Like the fairness knob of Tetris (Grandl et al., SIGCOMM 2014) over dominant shares: users at or below their
    fair share are served by urgency alone. It is bounded, so that holding much more than that weighs more than it.
    """
    bound_s = settings.lateness_s
    return max(-bound_s, min(due_in_s, bound_s)) + settings.unfairness_s * max(0.0, share - entitled)


def remaining_s(*, expected_s: float, elapsed_s: float) -> float:
    """Return how much longer something will run that was expected to run for `expected_s`.

    Beyond its prediction it is expected to run for half as long again as it has (the correction of Tsafrir et al.,
    in proportion because run times are heavy-tailed).
    """
    return expected_s - elapsed_s if elapsed_s < expected_s else elapsed_s / 2


def opening(free: Shape, ends: Iterable[tuple[float, Shape]], need: Shape) -> tuple[float, Shape] | None:
    """Return when a worker will have room for `need`, and what it will have free in all then; None if never.

    `ends` are (seconds from now, what comes free), soonest first: the shadow time and the extra nodes of EASY backfill
    (Lifka, "The ANL/IBM SP Scheduling System", 1995; Mu'alem and Feitelson, TPDS 2001) in several dimensions.
    """
    room = free
    if fits(need, room):
        return 0.0, room
    for in_s, freed in ends:
        room = add(room, freed)
        if fits(need, room):
            return in_s, room
    return None
