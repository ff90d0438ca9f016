from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from qonduit_service_kit.messages import WorkerDrain
from qonduit_worker.drain import DrainOrder

if TYPE_CHECKING:
    from pathlib import Path


def test_an_order_outlives_the_worker(tmp_path: Path) -> None:
    path = tmp_path / "data" / "drain.json"
    order = DrainOrder(path)
    assert not order.draining
    assert order.take(WorkerDrain("w", draining=True, asked_at=1.0))
    assert DrainOrder(path).draining
    assert DrainOrder(path).take(WorkerDrain("w", draining=False, asked_at=2.0))
    assert not DrainOrder(path).draining


def test_of_two_orders_that_cross_the_later_holds(tmp_path: Path) -> None:
    order = DrainOrder(tmp_path / "drain.json")
    drain, resume = (WorkerDrain("w", draining=draining, asked_at=at) for draining, at in ((True, 1.0), (False, 2.0)))
    assert not order.take(resume), "it was open before"
    assert not order.take(drain)
    assert not order.draining
    assert not order.take(resume)


@pytest.mark.parametrize("content", ["", "no JSON", "[]", '{"draining": true}', '{"draining": true, "asked_at": "x"}'])
def test_a_damaged_file_is_no_order(tmp_path: Path, content: str) -> None:
    (tmp_path / "drain.json").write_text(content)
    assert not DrainOrder(tmp_path / "drain.json").draining
