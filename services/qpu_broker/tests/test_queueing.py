from __future__ import annotations

from typing import TYPE_CHECKING, cast

from prometheus_client import CollectorRegistry
from qonduit_qpu_broker.fairness import Shares
from qonduit_qpu_broker.metrics import BrokerMetrics
from qonduit_qpu_broker.queueing import Place, Queue
from slow_provider import Provider, Record

if TYPE_CHECKING:
    from qonduit_qpu_broker.ledger.records import JobRecord
    from qonduit_qpu_broker.upstream import Upstream

DEVICE = "ibm_torino"


def test_a_place_tells_who_is_ahead_and_how_long_that_may_take() -> None:
    queue, shares = Queue(BrokerMetrics(CollectorRegistry())), Shares(3600.0, 0.0)
    assert queue.place(DEVICE, 0.0) == Place(0, 0.0)
    for number in range(4):
        queue.add(cast("JobRecord", Record(f"q{number}", "ada", DEVICE, float(number))))
    assert queue.place(DEVICE, 2.0) == Place(2, None), "nothing is known of the device yet"
    provider = cast("Upstream", Provider())
    (first, second, *_), _ = queue.take(provider, shares, 10.0)
    queue.ended(first, shares, 20.0)
    queue.ended(second, shares, 50.0)
    place = queue.place(DEVICE, 100.0)
    assert place == Place(2, 60.0), "two run, and one ended every 30 s"
    assert queue.place("ibm_fez", 100.0) == Place(0, 0.0), "another device has a queue of its own"
