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
    """Waiting this long makes a worker be kept free for the one who waits."""
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


def fits_beside(need: Shape, *, reserved: Shape, backfilled: Iterable[Shape], capacity: Shape) -> bool:
    """Whether a worker kept for `reserved` can take `need` too without delaying it.

    EASY backfill (Lifka, "The ANL/IBM SP Scheduling System", 1995) without run time estimates: what is
    backfilled may stay for ever, so everything backfilled must fit beside the reserved shape.
    """
    together = add(need, reserved)
    for shape in backfilled:
        together = add(together, shape)
    return fits(together, capacity)
