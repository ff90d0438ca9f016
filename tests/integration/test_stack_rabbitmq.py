"""The stack's RabbitMQ under the supervisor: a kill at the worst moment leaves no queue that nobody can use."""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import TYPE_CHECKING

import pytest
from qonduit.stack.rabbitmq import RabbitNode
from qonduit.stack.rabbitmq_home import RabbitMQMissingError, find_rabbitmq
from qonduit.stack.units import BrokerUnit
from qonduit_service_kit.bus import Bus, worker_inbox
from qonduit_service_kit.messages import SchedulerElected, worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def unit(tmp_path: Path) -> AsyncIterator[BrokerUnit]:
    try:
        find_rabbitmq()
    except RabbitMQMissingError:
        if os.environ.get("CI"):
            raise
        pytest.skip("RabbitMQ is not installed")
    unit = BrokerUnit(RabbitNode(tmp_path / "rabbitmq"))
    await unit.start()
    yield unit
    await unit.stop()
    shutil.rmtree(tmp_path / "rabbitmq")


async def test_a_queue_made_just_before_the_node_was_killed_works_after(unit: BrokerUnit) -> None:
    bus = Bus(unit.url, app_id="test")
    await bus.start()
    try:
        await bus.declare(worker_inbox("one"))
        unit.kill()
        assert "gone" in await unit.ended()
        await unit.stop()
        await unit.start()
        async with asyncio.timeout(120):
            await bus.publish(worker("one"), SchedulerElected(term=1))
    finally:
        await bus.stop()
