"""The cluster in words and numbers: who offers what, what waits, and why."""

from __future__ import annotations

from heapq import merge
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.messages import ClusterReport, Shape, WaitingView, WorkerView

from qonduit_scheduler.shapes import cpu_text, in_words, mem_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qonduit_scheduler.fleet import Worker
    from qonduit_scheduler.picture import Picture
    from qonduit_scheduler.waiting import Entry

REPORTED_WAITING: Final = 500
_PAGE: Final = 80
"""Workers, and as many that wait, in one message: less than 64 KiB, also with long names."""


def cluster_reports(picture: Picture, now: float) -> Iterator[ClusterReport]:
    """Yield the picture as the gateway shows it, in pages that a message can carry; there is always one."""
    workers = [_worker_view(worker) for _, worker in sorted(picture.fleet.workers.items())]
    waiting = [
        _waiting_view(picture, entry, position)
        for position, entry in enumerate(islice(in_line(picture), REPORTED_WAITING), start=1)
    ]
    starts = range(0, max(len(workers), len(waiting), 1), _PAGE)
    for page, start in enumerate(starts):
        yield ClusterReport(
            term=picture.term,
            at=now,
            workers=tuple(workers[start : start + _PAGE]),
            waiting=tuple(waiting[start : start + _PAGE]),
            waiting_total=len(picture.line),
            page=page,
            last=page == len(starts) - 1,
        )


def in_line(picture: Picture) -> Iterator[Entry]:
    """Yield what waits about as it would be served: users in turn, smallest share first."""
    line = picture.line
    each_users = [merge(*line.lanes[user].values()) for _, user in picture.fairness.order]
    for turn in zip_longest(*each_users):
        for key in turn:
            if key is not None:
                yield line.entries[key]


def _worker_view(worker: Worker) -> WorkerView:
    return WorkerView(
        worker_id=worker.worker_id,
        hostname=worker.hostname,
        capacity=worker.capacity,
        free=worker.free,
        leases=len(worker.leases),
        draining=worker.draining,
        sandbox_tier=worker.sandbox_tier,
        seen_at=worker.seen_at,
    )


def _waiting_view(picture: Picture, entry: Entry, position: int) -> WaitingView:
    return WaitingView(
        job_id=entry.job_id,
        attempt=entry.attempt,
        kind=entry.kind,
        shape=entry.shape,
        count=entry.count,
        position=position,
        why=why_waiting(picture, entry),
        user=entry.user,
        since=entry.waiting_since,
    )


def why_waiting(picture: Picture, entry: Entry) -> str:
    """Say what an entry waits for, with the numbers of the dimension that is short."""
    if not picture.fleet.workers:
        return "no worker is connected"
    most_free = picture.fleet.index.most_free()
    if not most_free:
        return "no connected worker takes anything new"
    need = entry.shape
    words = in_words(need, up=True, gpus=need.gpus > 0)
    short = _short_of(need, most_free)
    if short:
        return short
    if picture.reservations and entry.key not in picture.reserved_for:
        kept = ", ".join(sorted(picture.reservations)[:3])
        return f"needs {words}; {kept} is kept free for one that has waited longer"
    return f"needs {words}; no single worker has all of that free at once"


def _short_of(need: Shape, most_free: tuple[tuple[int, str], ...]) -> str:
    """Name the first dimension in which no worker has enough free, or '' if there is none."""
    (cpu, cpu_on), (mem, mem_on), (gpus, gpus_on) = most_free
    if need.cpu_millis > cpu:
        return f"needs {cpu_text(need.cpu_millis)} cpu; the largest free is {cpu_text(max(cpu, 0))} on {cpu_on}"
    if need.mem_bytes > mem:
        largest = mem_text(max(mem, 0), up=False)
        return f"needs {mem_text(need.mem_bytes, up=True)}; the largest free is {largest} on {mem_on}"
    if need.gpus > gpus:
        return f"needs {need.gpus} gpus; the most free is {max(gpus, 0)} on {gpus_on}"
    return ""
