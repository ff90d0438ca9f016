"""200 programs of 20 users on 3 devices, five submissions a minute: in virtual time, with the real queue and limits."""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, cast

from prometheus_client import CollectorRegistry
from qonduit_qpu_broker.fairness import Shares, Waiting
from qonduit_qpu_broker.metrics import BrokerMetrics
from qonduit_qpu_broker.queueing import Queue
from slow_provider import A_MINUTE, LANES, Provider, Record

if TYPE_CHECKING:
    from qonduit_qpu_broker.ledger.records import JobRecord
    from qonduit_qpu_broker.upstream import Upstream

DEVICES = ("ibm_torino", "ibm_fez", "ibm_kingston")
USERS = [f"user-{number:02}" for number in range(20)]
HALF_LIFE_S = 3600.0


def run(jobs: list[Record], seconds: dict[str, float]) -> tuple[Provider, list[tuple[float, Waiting]]]:
    """Run all jobs, each for its seconds; return the provider, and when each job was sent."""
    provider, shares = Provider(), Shares(HALF_LIFE_S, 0.0)
    queue = Queue(BrokerMetrics(CollectorRegistry()))
    coming = sorted(jobs, key=lambda job: job.created_at, reverse=True)
    ends: list[tuple[float, str, Waiting]] = []
    started: list[tuple[float, Waiting]] = []
    while len(started) < len(jobs) or ends:
        while coming and coming[-1].created_at <= provider.clock:
            queue.add(cast("JobRecord", coming.pop()))
        while ends and ends[0][0] <= provider.clock:
            _, qpu_job_id, job = heapq.heappop(ends)
            provider.running[job.backend] -= 1
            queue.ended(job, shares, provider.clock)
            shares.charged(job.user, seconds[qpu_job_id], provider.clock)
        taken, again_s = queue.take(cast("Upstream", provider), shares, provider.clock)
        for job in taken:
            started.append((provider.clock, job))
            heapq.heappush(ends, (provider.clock + seconds[job.qpu_job_id], job.qpu_job_id, job))
        moments = [ends[0][0]] if ends else []
        moments += [coming[-1].created_at] if coming else []
        moments += [provider.clock + max(again_s, 1e-3)] if again_s is not None else []
        provider.clock = max(provider.clock, min(moments, default=provider.clock))
    return provider, started


def test_users_share_a_slow_provider_whatever_each_has_queued() -> None:
    """One user queues 105 jobs first, the 19 others five each right after: the others are not kept behind them."""
    jobs = [Record(f"a{number}", USERS[0], DEVICES[number % 3], number * 1e-3) for number in range(105)]
    jobs += [
        Record(f"b{number}", USERS[1 + number % 19], DEVICES[number % 3], 1.0 + number * 1e-3) for number in range(95)
    ]
    provider, started = run(jobs, {job.qpu_job_id: 10.0 for job in jobs})
    assert all(later - earlier >= 60.0 for earlier, later in zip(provider.sent, provider.sent[A_MINUTE:], strict=False))
    first_hundred = [job.user for _, job in started[:100]]
    had = {user: first_hundred.count(user) for user in USERS}
    assert max(had.values()) - min(had.values()) <= 1, "of the first hundred each has five, give or take one"
    order = [job.created_at for _, job in started if job.user == USERS[0]]
    assert order == sorted(order), "a user's own jobs go in their order"


def test_shares_are_of_seconds_and_nobody_starves() -> None:
    """Jobs of very different length: while all have jobs waiting, nobody is far ahead of anybody else."""
    random_ = random.Random(7)  # noqa: S311 -- a workload, not a secret.
    jobs = [Record(f"j{n}", USERS[n % 20], DEVICES[n % 3], random_.random()) for n in range(200)]
    length_s = {job.qpu_job_id: random_.choice([1.0, 3.0, 30.0]) for job in jobs}
    _, started = run(jobs, length_s)
    had: dict[str, float] = defaultdict(float)
    left = dict.fromkeys(USERS, 10)
    for _, job in started:
        waiting = [user for user in USERS if left[user]]
        # Those who are served now have not had much more than the least served: what is in flight is not charged yet.
        assert had[job.user] - min(had[user] for user in waiting) <= LANES * len(DEVICES) * 30.0
        had[job.user] += length_s[job.qpu_job_id]
        left[job.user] -= 1
    gaps = [later - earlier for earlier, later in pairwise(at for at, _ in started)]
    assert max(gaps) <= 61.0, "the provider is never left idle while somebody waits"
