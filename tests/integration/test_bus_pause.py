"""A consumer that takes nothing for a while, on a real RabbitMQ, also while the connection comes and goes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from qonduit_service_kit.bus import Bus, Delivery, tasks_queue
from qonduit_service_kit.messages import SchedulerHello, Shape, task_queue
from qonduit_service_kit.testing import new_broker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from qonduit_service_kit.bus import Subscription
    from qonduit_service_kit.testing import MakeBus, PrivateBroker

QUEUE = tasks_queue(task_queue("job", 1, Shape(500, 1)))
PATIENCE_S = 120


class Consumer:
    """A consumer whose handler may be held."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.got: asyncio.Queue[str] = asyncio.Queue()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.subscription: Subscription

    async def begin(self, prefetch: int = 8) -> Consumer:
        self.subscription = await self.bus.consume(QUEUE, self._handle, prefetch=prefetch)
        return self

    async def _handle(self, delivery: Delivery) -> None:
        self.got.put_nowait(delivery.message.scheduler_id)
        await self.go_on.wait()

    async def next(self) -> str:
        return await asyncio.wait_for(self.got.get(), PATIENCE_S)


async def send(bus: Bus, *texts: str) -> None:
    for text in texts:
        await bus.publish(QUEUE.address, SchedulerHello(text), persistent=False)


async def test_nothing_is_delivered_while_paused(make_bus: MakeBus) -> None:
    bus = await make_bus()
    paused, other = await Consumer(bus).begin(), Consumer(bus)
    await paused.subscription.pause()
    await paused.subscription.pause()
    await send(bus, "a", "b")
    assert await bus.count(QUEUE) == 2
    await other.begin()
    assert [await other.next(), await other.next()] == ["a", "b"]
    await other.subscription.cancel()
    await paused.subscription.resume()
    await paused.subscription.resume()
    await send(bus, "c")
    assert await paused.next() == "c"
    assert paused.got.empty()


async def test_what_was_not_begun_goes_back_in_its_order(make_bus: MakeBus) -> None:
    bus = await make_bus()
    await bus.declare(QUEUE)
    await send(bus, "a", "b", "c", "d")
    holds, other = Consumer(bus), Consumer(bus)
    holds.go_on.clear()
    await holds.begin(prefetch=4)
    assert await holds.next() == "a"
    await holds.subscription.pause()
    await other.begin()
    assert [await other.next() for _ in range(3)] == ["b", "c", "d"]
    holds.go_on.set()
    await holds.subscription.cancel()
    await other.subscription.cancel()
    assert await bus.count(QUEUE) == 0, "what was begun was acknowledged"


async def test_a_pause_and_a_resume_at_the_same_time_end_in_the_order_they_were_asked_for(make_bus: MakeBus) -> None:
    bus = await make_bus()
    consumer = await Consumer(bus).begin()
    for _ in range(20):
        await asyncio.gather(
            consumer.subscription.pause(),
            consumer.subscription.resume(),
            consumer.subscription.pause(),
            consumer.subscription.resume(),
        )
    await send(bus, "a")
    assert await consumer.next() == "a"
    await consumer.subscription.pause()
    await send(bus, "b")
    assert await bus.count(QUEUE) == 1


# --- While RabbitMQ comes and goes -------------------------------------------------------------


@pytest.fixture(scope="module")
def own_broker() -> Iterator[PrivateBroker]:
    broker = new_broker()
    yield broker
    broker.stop()


@pytest.fixture
async def consumer(own_broker: PrivateBroker) -> AsyncIterator[Consumer]:
    own_broker.start()
    bus = Bus(own_broker.url, app_id="test")
    await bus.start()
    made = await Consumer(bus).begin()
    yield made
    await made.subscription.cancel()
    await bus.delete(QUEUE)
    await bus.stop()


async def restarted(broker: PrivateBroker, bus: Bus) -> None:
    await asyncio.to_thread(broker.start)
    async with asyncio.timeout(PATIENCE_S):
        await bus.wait_connected()


async def test_a_paused_consumer_stays_paused_over_a_reconnect_and_resumes_after_it(
    own_broker: PrivateBroker, consumer: Consumer
) -> None:
    await consumer.subscription.pause()
    made = consumer.bus.connections_made
    await asyncio.to_thread(own_broker.kill)
    await restarted(own_broker, consumer.bus)
    assert consumer.bus.connections_made >= made + 2
    await send(consumer.bus, "a")
    assert await consumer.bus.count(QUEUE) == 1
    await consumer.subscription.resume()
    assert await consumer.next() == "a"


async def test_a_pause_while_rabbitmq_is_away_holds_when_it_is_back(
    own_broker: PrivateBroker, consumer: Consumer
) -> None:
    await asyncio.to_thread(own_broker.kill)
    await consumer.subscription.pause()
    await restarted(own_broker, consumer.bus)
    await send(consumer.bus, "a")
    assert await consumer.bus.count(QUEUE) == 1
    await consumer.subscription.resume()
    assert await consumer.next() == "a"


async def test_a_resume_while_rabbitmq_is_away_takes_one_consumer_up_again(
    own_broker: PrivateBroker, consumer: Consumer
) -> None:
    await consumer.subscription.pause()
    await asyncio.to_thread(own_broker.kill)
    await consumer.subscription.resume()
    await restarted(own_broker, consumer.bus)
    await send(consumer.bus, "a")
    assert await consumer.next() == "a"
    await consumer.subscription.pause()
    await send(consumer.bus, "b")
    assert await consumer.bus.count(QUEUE) == 1, "there was one consumer, and it is paused"


async def test_pauses_and_resumes_all_through_a_reconnect_leave_one_consumer(
    own_broker: PrivateBroker, consumer: Consumer
) -> None:
    over = asyncio.Event()

    async def toggle() -> None:
        while not over.is_set():
            await consumer.subscription.pause()
            await consumer.subscription.resume()
            await asyncio.sleep(0)

    toggling = [asyncio.create_task(toggle()) for _ in range(3)]
    await asyncio.to_thread(own_broker.kill)
    await restarted(own_broker, consumer.bus)
    over.set()
    await asyncio.gather(*toggling)
    await send(consumer.bus, "a")
    assert await consumer.next() == "a"
    await consumer.subscription.pause()
    await send(consumer.bus, "b")
    assert await consumer.bus.count(QUEUE) == 1


async def test_a_paused_consumer_is_cancelled_without_waiting_for_an_answer_that_never_comes(
    make_bus: MakeBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An executor that is taken back does both, and holds its room until the second is done."""
    monkeypatch.setattr("qonduit_service_kit.bus.consumer.ANSWER_TIMEOUT_S", 600)
    bus = await make_bus()
    paused, other = await Consumer(bus).begin(), Consumer(bus)
    await paused.subscription.pause()
    await send(bus, "a")
    await asyncio.wait_for(paused.subscription.cancel(), PATIENCE_S)
    await other.begin()
    assert await other.next() == "a"
