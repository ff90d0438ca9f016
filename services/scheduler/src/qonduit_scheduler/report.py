"""The cluster in words and numbers: who offers what, what waits, and why."""

from __future__ import annotations

from heapq import merge
from itertools import chain, islice, zip_longest
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.messages import ClusterReport, LeaseKind, Shape, TaskDemand, WaitingView, WorkerView

from qonduit_scheduler.policy import tolerated_share
from qonduit_scheduler.shapes import cpu_text, fits, in_words, mem_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qonduit_scheduler.fleet import Worker
    from qonduit_scheduler.picture import Picture
    from qonduit_scheduler.waiting import Entry, EntryKey

REPORTED_WAITING: Final = 500
REPORTED_WORKERS: Final = 16
"""Workers that are looked at, one by one, for the reason why one entry waits."""
_PAGE: Final = 80
"""Workers, and as many that wait, in one message: less than 64 KiB, also with long names."""


def cluster_reports(picture: Picture, now: float) -> Iterator[ClusterReport]:
    """Yield the picture as the gateway shows it, in pages that a message can carry; there is always one."""
    workers = [_worker_view(worker) for _, worker in sorted(picture.fleet.workers.items())]
    waiting = list(islice(_all_waiting(picture), REPORTED_WAITING))
    starts = range(0, max(len(workers), len(waiting), 1), _PAGE)
    for page, start in enumerate(starts):
        yield ClusterReport(
            term=picture.term,
            at=now,
            workers=tuple(workers[start : start + _PAGE]),
            waiting=tuple(waiting[start : start + _PAGE]),
            waiting_total=len(picture.line) + len(picture.at_limit),
            page=page,
            last=page == len(starts) - 1,
        )


def _all_waiting(picture: Picture) -> Iterator[WaitingView]:
    """Yield what waits for room, then what waits for its user's jobs to end, then for its own job's limit."""
    reasons = Reasons(picture)
    position = 0
    for position, entry in enumerate(chain(in_line(picture), _held(picture)), start=1):
        yield WaitingView(
            job_id=entry.job_id,
            attempt=entry.attempt,
            kind=entry.kind,
            shape=entry.asked,
            count=entry.count,
            position=position,
            why=reasons.of(entry),
            user=entry.user,
            since=entry.waiting_since,
        )
    for place, ((job_id, shape), wanted) in enumerate(sorted(picture.at_limit.items()), start=position + 1):
        message = wanted.message
        yield WaitingView(
            job_id=job_id,
            attempt=message.attempt,
            kind=LeaseKind.EXECUTOR,
            shape=shape,
            count=wanted.missing,
            position=place,
            why=_at_limit(picture.attempts[job_id].executors_use, message),
            user=message.user,
            since=wanted.at_limit_since,
        )


def in_line(picture: Picture) -> Iterator[Entry]:
    """Yield what waits about as it would be served: users in turn, smallest share first."""
    lanes = picture.line.lanes
    return _in_turns(picture, [merge(*(lane.keys() for lane in lanes[u].values())) for _, u in picture.fairness.order])


def _held(picture: Picture) -> Iterator[Entry]:
    """Yield the drivers of users who have as many jobs running as they may."""
    lanes, users = picture.line.lanes, (user for _, user in picture.fairness.order if user in picture.line.held)
    return _in_turns(picture, [merge(*(lane.drivers for lane in lanes[user].values())) for user in users])


def _in_turns(picture: Picture, each_users: list[Iterator[EntryKey]]) -> Iterator[Entry]:
    for turn in zip_longest(*each_users):
        for key in turn:
            if key is not None:
                yield picture.line.entries[key]


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


class Reasons:
    """Says what each entry waits for, in words and numbers."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._most_free = picture.fleet.index.most_free()
        self._entitled = picture.fairness.entitled()
        self._draining = picture.fleet.draining()

    def of(self, entry: Entry) -> str:
        """Return what an entry waits for: room, a worker that is kept for another, or those who hold less."""
        picture = self._picture
        if picture.line.is_held(entry):
            return _held_by_user(picture, entry.user)
        if not picture.fleet.workers:
            return "no worker is connected"
        if not self._most_free:
            return f"no connected worker takes anything new: {_closed(picture)}"
        short = _short_of(entry.shape, self._most_free)
        if not short:
            words = in_words(entry.asked, up=True, gpus=entry.asked.gpus > 0)
            short = f"needs {words}; {self._what_is_in_the_way(entry)}"
        return short + self._and_besides(entry)

    def _what_is_in_the_way(self, entry: Entry) -> str:
        picture = self._picture
        for reservation in islice(picture.reservations.values(), REPORTED_WORKERS):
            worker = picture.fleet.workers.get(reservation.worker_id)
            if reservation.key != entry.key and worker is not None and fits(entry.shape, worker.free):
                owner = picture.line.entries[reservation.key]
                what = "job" if owner.kind is LeaseKind.DRIVER else "tasks of job"
                return f"{worker.worker_id} is kept free for {owner.user}'s {what} {owner.job_id}, which is more urgent"
        return "no single worker has all of that free at once"

    def _and_besides(self, entry: Entry) -> str:
        """Add what else is good to know: a worker is kept for it, its user holds much, one with room is draining."""
        picture = self._picture
        known: list[str] = []
        if entry.shape != entry.asked and self._most_free and self._most_free[1][0] < entry.shape.mem_bytes:
            room = mem_text(entry.shape.mem_bytes - entry.asked.mem_bytes, up=True)
            known.append(f"{room} of that stay free for tasks")
        reservation = picture.reserved_for.get(entry.key)
        if reservation is not None:
            known.append(f"{reservation.worker_id} is kept free for it")
        share = picture.fairness.share_of_waiting(entry.user)
        if share > tolerated_share(self._entitled, picture.settings):
            known.append(
                f"{entry.user} holds {share:.0%} of the cluster, far beyond the fair share of {self._entitled:.0%}, "
                "so those who hold less go first"
            )
        drained = [w.worker_id for w in self._draining[:REPORTED_WORKERS] if fits(entry.shape, w.free)]
        if drained:
            known.append(f"{drained[0]} has room but is draining")
        return "".join(f"; {fact}" for fact in known)


def _closed(picture: Picture) -> str:
    """Say of each of the first few workers why it takes nothing."""
    said = []
    for name, worker in islice(sorted(picture.fleet.workers.items()), 3):
        if worker.draining:
            said.append(f"{name} is draining")
        elif worker.refuses:
            said.append(f"{name} could not be reached, or refused what it was given")
        else:
            said.append(f"{name} has not yet confirmed that this scheduler leads")
    return ", ".join(said)


def _held_by_user(picture: Picture, user: str) -> str:
    running = picture.running.count(user)
    jobs = "job" if running == 1 else "jobs"
    return (
        f"{user} has {running} {jobs} running and may have {picture.running.most[user]}; this one waits for their end"
    )


def _at_limit(used: Shape, message: TaskDemand) -> str:
    """Name the dimension of a job's limit in which there is no room for one executor more."""
    need, limit = message.shape, message.limit
    if used.cpu_millis + need.cpu_millis > limit.cpu_millis:
        asked, held = cpu_text(need.cpu_millis), cpu_text(used.cpu_millis)
        return f"needs {asked} cpu; {held} of the job's limit of {cpu_text(limit.cpu_millis)} cpu are in use"
    if used.mem_bytes + need.mem_bytes > limit.mem_bytes:
        asked, held = mem_text(need.mem_bytes, up=True), mem_text(used.mem_bytes, up=True)
        return f"needs {asked}; {held} of the job's limit of {mem_text(limit.mem_bytes, up=False)} are in use"
    return f"needs {need.gpus} gpus; {used.gpus} of the job's limit of {limit.gpus} gpus are in use"


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
