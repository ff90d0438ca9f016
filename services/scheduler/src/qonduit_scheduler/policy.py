"""The scheduling policy: small pure functions, each with its source.

Nothing here knows events, workers' connections or time's passing; the simulator may swap any of them.
"""

from __future__ import annotations

import math
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
    claim_after_s: float = 120.0
    """Waiting this long makes even users who hold less give executors back to the one for whom a worker is kept."""
    reservations: int = 16
    """Most workers kept free at a time, each for one of the most urgent."""
    kept_fraction: float = 0.125
    """And no more of all workers than this, but one."""
    margin: float = 1.5
    """What is to end in time on a kept worker must be predicted to run this many times shorter than it has."""
    trust_s: float = 3600.0
    """One who has had a worker kept for this long is no longer passed by what is predicted to end in time."""
    stretch: float = 11.0
    """What waits is due after about this many times its predicted run time, so that short ones go first."""
    stretch_power: float = 0.85
    """Of the predicted run time beside `typical_s`: below 1, as predictions err more the further they are from it."""
    typical_s: float = 60.0
    """The predicted run time to which `stretch` applies as it is."""
    patience_s: float = 750.0
    """Nothing is due later than this, however long it will run, unless the work that waits already takes longer."""
    size_credit_s: float = 2880.0
    """A shape of a whole worker is due this much sooner: room for it is rare. Others by the root of their size."""
    tolerated: float = 0.35
    """Of what the cluster has beyond a user's fair share, the fraction that they may hold before what they want is less
    urgent."""
    unfairness_s: float = 40_000.0
    """By how much, for all of the cluster."""
    lateness_s: float = 2500.0
    """Being overdue for longer than this, beyond a shape's credit, counts no more between users."""
    unknown_s: float = 60.0
    """Predicted run time where nothing is known."""
    departed_s: float = 60.0
    """A worker that left counts this long when asking whether a shape could ever fit."""
    task_room_bytes: int = 1024**3
    """Memory that a worker must have left for tasks when it gets a driver: drivers keep theirs while they wait for
    tasks, and if they held it all they would wait for ever. Not where no worker is large enough for both."""
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


def size_credit(size: float, settings: PolicySettings) -> float:
    """Return how many seconds sooner a shape is due that takes this fraction of the largest worker."""
    return settings.size_credit_s * math.sqrt(size)


def due_after(*, expected_s: float, size: float, backlog_s: float, settings: PolicySettings) -> float:
    """Return after how many seconds of waiting something is due; may be negative.

    Earliest due date first with a date relative to the run time is shortest job first among what came at about
    the same time, and first come, first served over long times, so that nothing is passed for ever (the aim of
    bounded slowdown: Feitelson et al., "Theory and Practice in Parallel Job Scheduling", 1997). `size` is the
    largest fraction of the largest worker that the shape takes; `backlog_s` is for how long the cluster would work for
    what waits already: a long one can't expect to be served before, and if it did, all would be late and short ones
    not short any more. What is long approaches that patience and never reaches it: of two long ones the longer is due
    later.
    """
    patience_s = max(settings.patience_s, backlog_s)
    relative = (expected_s / settings.typical_s) ** settings.stretch_power
    wanted_s = settings.stretch * settings.typical_s * relative
    return patience_s * -math.expm1(-wanted_s / patience_s) - size_credit(size, settings)


def tolerated_share(entitled: float, settings: PolicySettings) -> float:
    """Return the share of the cluster up to which a user's work is as urgent as everybody's."""
    return entitled + settings.tolerated * (1 - entitled)


def urgency(*, due_in_s: float, credit_s: float, share: float, entitled: float, settings: PolicySettings) -> float:
    """Return the order between users, lowest first: seconds until due, more for users far above their fair share.

    Like the fairness knob of Tetris (Grandl et al., SIGCOMM 2014) over dominant shares: users who hold no more than
    is tolerated beyond their fair share are served by urgency alone. It is bounded (`credit_s` is the shape's
    `size_credit`), so that holding much more than that weighs more than having waited for ever.
    """
    latest_s = -settings.lateness_s - credit_s
    excess = max(0.0, share - tolerated_share(entitled, settings))
    return max(latest_s, min(due_in_s, settings.patience_s)) + settings.unfairness_s * excess


def remaining_s(*, expected_s: float, elapsed_s: float) -> float:
    """Return how much longer something will run that was expected to run for `expected_s`.

    Beyond its prediction it is expected to run for a third as long again as it has (the correction of Tsafrir et al.,
    in proportion because run times are heavy-tailed).
    """
    return expected_s - elapsed_s if elapsed_s < expected_s else elapsed_s / 3


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
