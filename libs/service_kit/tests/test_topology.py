from __future__ import annotations

import pytest
from qonduit_service_kit.bus import (
    DEAD_LETTERS,
    GATEWAY_INBOX,
    SCHEDULER_INBOX,
    WELL_KNOWN,
    tasks_queue,
    worker_inbox,
)
from qonduit_service_kit.bus.backoff import BACKOFF_FIRST_S, BACKOFF_MAX_S, backoff_s
from qonduit_service_kit.bus.topology import EXCHANGES, exchange_type
from qonduit_service_kit.messages import ALL_WORKERS, GATEWAY, Shape, task_queue, worker


def test_inboxes_survive_restarts_and_park_poison() -> None:
    assert GATEWAY_INBOX.arguments() == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 10,
        "x-dead-letter-exchange": "qonduit.dead-letters",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    assert SCHEDULER_INBOX.arguments()["x-single-active-consumer"] is True


def test_dead_letters_die_no_second_time() -> None:
    arguments = DEAD_LETTERS.arguments()
    assert "x-dead-letter-exchange" not in arguments
    assert arguments["x-delivery-limit"] > 1000
    assert exchange_type(DEAD_LETTERS.address.exchange) == "fanout"


def test_a_workers_inbox_gets_its_own_and_what_all_get_and_expires() -> None:
    inbox = worker_inbox("w1")
    assert inbox.addresses == (worker("w1"), ALL_WORKERS)
    assert inbox.arguments()["x-expires"] == 600_000


def test_a_task_queue_is_named_as_its_key_and_is_classic() -> None:
    address = task_queue("job", 2, Shape(500, 1024, 1))
    queue = tasks_queue(address)
    assert queue.name == address.key == "tasks.job.2.c500m1024g1"
    assert queue.arguments()["x-queue-type"] == "classic"
    with pytest.raises(ValueError, match="no address of a task queue"):
        tasks_queue(GATEWAY)


def test_every_exchange_that_services_publish_to_is_declared_on_connect() -> None:
    used = {address.exchange for queue in (*WELL_KNOWN, worker_inbox("w")) for address in queue.addresses}
    used.add(task_queue("job", 1, Shape(1, 1)).exchange)
    assert used <= set(EXCHANGES)


def test_waits_grow_to_a_limit_with_full_jitter() -> None:
    longest = [backoff_s(failures, draw=lambda _low, high: high) for failures in range(40)]
    assert longest[0] == BACKOFF_FIRST_S
    assert longest == sorted(longest)
    assert longest[-1] == BACKOFF_MAX_S
    assert backoff_s(3, draw=lambda low, _high: low) == 0
