"""RabbitMQ itself dies and comes back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from integration.gateway.rig import Cluster
from qonduit_service_kit.messages import EventKind
from qonduit_service_kit.testing import PrivateBroker, new_broker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from integration.gateway.rig import Client, Service


@pytest.fixture
def own_broker() -> Iterator[PrivateBroker]:
    """A broker that this test may kill: others go on with theirs."""
    made = new_broker()
    yield made
    made.stop()


@pytest.fixture
def gateway(tmp_path: Path, new_gateway: Callable[..., Service], own_broker: PrivateBroker) -> Iterator[Service]:
    service = new_gateway(tmp_path, own_broker.url)
    yield service
    service.stop()


async def test_jobs_are_accepted_while_rabbitmq_is_down_and_announced_when_it_is_back(
    client: Client, own_broker: PrivateBroker
) -> None:
    await client.upload()
    await asyncio.to_thread(own_broker.kill)
    job = await client.run()
    assert (await client.get(job.job_id)).status == "QUEUED"
    await asyncio.to_thread(own_broker.start)
    cluster = Cluster(own_broker.url)
    await cluster.start()
    try:
        spec = await cluster.submitted(job.job_id)
        await cluster.begin(spec)
        await cluster.tell(spec, EventKind.FINISHED)
        await client.until(job.job_id, "DONE")
    finally:
        await cluster.stop()
