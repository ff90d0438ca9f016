"""What could not be handled."""

from __future__ import annotations

import pytest
from qonduit_gateway.dead_letter_box import kind_of
from qonduit_service_kit.bus import GATEWAY_INBOX, tasks_queue, worker_inbox
from qonduit_service_kit.messages import Shape, task_queue


@pytest.mark.parametrize(
    ("queue", "kind"),
    [
        (GATEWAY_INBOX, "gateway.inbox"),
        (worker_inbox("w.1"), "worker"),
        (tasks_queue(task_queue("job", 1, Shape(1, 1))), "tasks"),
    ],
)
def test_no_job_and_no_worker_is_named_in_metrics(queue: object, kind: str) -> None:
    assert kind_of(getattr(queue, "name", "")) == kind
