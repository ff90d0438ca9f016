"""The bus while RabbitMQ crashes, restarts, or blocks publishers: nothing lost, nobody stuck."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from qonduit_service_kit.bus import GATEWAY_INBOX, SCHEDULER_INBOX, Bus, Delivery, TopologyError, amqp, tasks_queue
from qonduit_service_kit.messages import GATEWAY, SCHEDULER, SchedulerHello, Shape, task_queue
from qonduit_service_kit.testing import halt, new_broker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from qonduit_service_kit.testing import MakeBus, PrivateBroker

# Returns once all connections have been told, unlike rabbit_alarm:set_alarm.
SET_ALARM = "gen_event:sync_notify(rabbit_alarm, {set_alarm, {{resource_limit, memory, node()}, []}})."
CLEAR_ALARM = "rabbit_alarm:clear_alarm({resource_limit, memory, node()})."


@pytest.fixture(scope="module")
def own_broker() -> Iterator[PrivateBroker]:
    """A broker that these tests may kill."""
    made = new_broker()
    yield made
    made.stop()


@pytest.fixture
async def crashing(own_broker: PrivateBroker) -> AsyncIterator[tuple[PrivateBroker, Bus, Bus]]:
    """A broker to be killed, a publishing and a consuming bus on it."""
    own_broker.start()
    sender, receiver = Bus(own_broker.url, app_id="sender"), Bus(own_broker.url, app_id="receiver")
    await asyncio.gather(sender.start(), receiver.start())
    yield own_broker, sender, receiver
    await asyncio.gather(sender.stop(), receiver.stop())


@pytest.mark.parametrize("how", ["kill", "restart"])
async def test_nothing_is_lost_when_the_broker_goes_under_load(
    crashing: tuple[PrivateBroker, Bus, Bus], how: str
) -> None:
    broker, sender, receiver = crashing
    sent: set[str] = set()
    seen: set[str] = set()
    remaining: set[str] | None = None  # What was sent and not yet seen, from when nothing more is sent.
    enough, over, complete = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handler(delivery: Delivery) -> None:
        name = delivery.message.scheduler_id
        seen.add(name)
        if len(seen) == 300:
            enough.set()
        if remaining is not None:
            remaining.discard(name)
            if not remaining:
                complete.set()

    async def keep_publishing(name: int) -> None:
        number = 0
        while not over.is_set():
            text = f"{how}-{name}-{number}"
            await sender.publish(GATEWAY, SchedulerHello(text))
            sent.add(text)
            number += 1

    subscription = await receiver.consume(GATEWAY_INBOX, handler)
    publishers = [asyncio.create_task(keep_publishing(name)) for name in range(20)]
    await enough.wait()
    await asyncio.to_thread(broker.kill if how == "kill" else broker.node.stop)
    await asyncio.to_thread(broker.start)
    await sender.wait_connected()
    await receiver.wait_connected()
    target = len(sent) + 300
    async with asyncio.timeout(120):
        while len(sent) < target:
            await sender.publish(GATEWAY, SchedulerHello(f"{how}-extra-{len(sent)}"))
    over.set()
    await asyncio.gather(*publishers)
    remaining = sent - seen
    await sender.publish(GATEWAY, SchedulerHello(f"{how}-last"))  # Behind all others, so the handler runs again.
    async with asyncio.timeout(300):  # What waits may be tens of thousands, if only the publisher was back at once.
        await complete.wait()
    await subscription.cancel()


async def test_what_was_not_acknowledged_comes_again_after_a_crash(
    crashing: tuple[PrivateBroker, Bus, Bus],
) -> None:
    broker, sender, receiver = crashing
    deliveries: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
    first = asyncio.Event()

    async def handler(delivery: Delivery) -> None:
        deliveries.put_nowait((delivery.message.scheduler_id, delivery.redelivered))
        if not first.is_set():
            await first.wait()

    await sender.publish(SCHEDULER, SchedulerHello("a"))
    await sender.publish(SCHEDULER, SchedulerHello("b"))
    subscription = await receiver.consume(SCHEDULER_INBOX, handler)
    assert await deliveries.get() == ("a", False)
    await asyncio.to_thread(broker.kill)
    first.set()  # It ends now, but its acknowledgement has nowhere to go.
    await asyncio.to_thread(broker.start)
    seen: list[str] = []
    while seen[-2:] != ["a", "b"]:
        seen.append((await deliveries.get())[0])
    # The second was here already, and may be handled before the loss is noticed; it comes again all the same.
    assert seen in (["a", "b"], ["b", "a", "b"])
    await subscription.cancel()


async def test_queues_that_a_crash_took_are_declared_again(crashing: tuple[PrivateBroker, Bus, Bus]) -> None:
    broker, sender, receiver = crashing
    queue = tasks_queue(task_queue("job", 1, Shape(500, 1)))
    got: asyncio.Queue[str] = asyncio.Queue()

    async def handler(delivery: Delivery) -> None:
        got.put_nowait(delivery.message.scheduler_id)

    await sender.declare(queue)
    subscription = await receiver.consume(queue, handler)
    await sender.publish(queue.address, SchedulerHello("before"), persistent=False)
    assert await got.get() == "before"
    await asyncio.to_thread(broker.kill)
    during = asyncio.create_task(sender.publish(queue.address, SchedulerHello("during"), persistent=False))
    await asyncio.to_thread(broker.start)
    await during
    assert await got.get() == "during"
    await subscription.cancel()
    await sender.delete(queue)


async def test_a_queue_that_is_no_longer_consumed_is_forgotten(crashing: tuple[PrivateBroker, Bus, Bus]) -> None:
    broker, sender, receiver = crashing
    queue = tasks_queue(task_queue("finished-job", 1, Shape(500, 1)))

    async def handler(_: Delivery) -> None:
        return

    subscription = await receiver.consume(queue, handler)
    await subscription.cancel()
    await sender.delete(queue)
    await asyncio.to_thread(broker.restart)
    await receiver.publish(GATEWAY, SchedulerHello("back"))
    with pytest.raises(TopologyError, match="404"):
        await receiver.count(queue)


async def test_a_request_that_is_never_answered_is_made_again(
    crashing: tuple[PrivateBroker, Bus, Bus], monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, bus, _ = crashing
    made = bus.connections_made
    queue = tasks_queue(task_queue("unanswered", 1, Shape(1000, 1)))
    with monkeypatch.context() as hasty:
        hasty.setattr(amqp, "UNANSWERED_S", 0.2)
        with stopped(broker):
            declaring = asyncio.create_task(bus.declare(queue))
            async with asyncio.timeout(amqp.HEARTBEAT_S):  # For want of heartbeats it would end only later.
                while bus.connected:  # noqa: ASYNC110 - the bus tells nobody.
                    await asyncio.sleep(0.02)
            assert not declaring.done()
    async with asyncio.timeout(120):
        await declaring
    assert await bus.count(queue) == 0
    assert bus.connections_made > made


@contextmanager
def stopped(broker: PrivateBroker) -> Iterator[None]:
    """A broker that stands still: it takes bytes and answers nothing."""
    assert broker.node.pid is not None
    halt(broker.node.pid)
    try:
        yield
    finally:
        os.kill(broker.node.pid, signal.SIGCONT)


async def test_a_bus_may_start_before_its_broker(own_broker: PrivateBroker) -> None:
    own_broker.node.stop()
    bus = Bus(own_broker.url, app_id="early")
    starting = asyncio.create_task(bus.start())
    await asyncio.to_thread(own_broker.start)
    await starting
    await bus.publish(GATEWAY, SchedulerHello("x"))
    await bus.stop()


async def test_a_blocked_publisher_waits_and_acknowledgements_go_on(make_bus: MakeBus, broker: PrivateBroker) -> None:
    bus = await make_bus()
    seen: asyncio.Queue[str] = asyncio.Queue()
    go_on = asyncio.Event()

    async def handler(delivery: Delivery) -> None:
        await go_on.wait()
        seen.put_nowait(delivery.message.scheduler_id)

    for text in "abc":
        await bus.publish(GATEWAY, SchedulerHello(text))
    subscription = await bus.consume(GATEWAY_INBOX, handler, prefetch=1)
    await asyncio.to_thread(broker.node.control, SET_ALARM)
    try:
        waiting = asyncio.create_task(bus.publish(GATEWAY, SchedulerHello("d")))
        go_on.set()
        # With a prefetch of 1 the next comes only once the one before is acknowledged.
        assert [await seen.get() for _ in range(3)] == ["a", "b", "c"]
        assert not waiting.done()
    finally:
        await asyncio.to_thread(broker.node.control, CLEAR_ALARM)
    await waiting
    assert await seen.get() == "d"
    await subscription.cancel()


async def test_a_full_queue_makes_publishers_wait_until_there_is_room(make_bus: MakeBus, broker: PrivateBroker) -> None:
    bus = await make_bus()
    vhost = bus_vhost(bus)
    await asyncio.to_thread(
        broker.node.control,
        f'rabbit_policy:set(<<"{vhost}">>, <<"small">>, <<"gateway">>, [{{<<"max-length">>, 2}}], 1, <<"queues">>, '
        '<<"test">>).',
    )
    texts = [str(number) for number in range(20)]
    publishing = asyncio.gather(*(bus.publish(GATEWAY, SchedulerHello(text)) for text in texts))
    seen: set[str] = set()
    complete = asyncio.Event()

    async def handler(delivery: Delivery) -> None:
        seen.add(delivery.message.scheduler_id)
        if len(seen) == len(texts):
            complete.set()

    subscription = await bus.consume(GATEWAY_INBOX, handler, prefetch=1)
    await publishing
    await complete.wait()
    await subscription.cancel()


async def test_a_consumer_whose_channel_the_broker_closed_begins_again(make_bus: MakeBus) -> None:
    bus = await make_bus()
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def handler(delivery: Delivery) -> None:
        seen.put_nowait(delivery.message.scheduler_id)

    subscription = await bus.consume(GATEWAY_INBOX, handler)
    settler = subscription._settler
    assert settler is not None
    settler.channel.ack(4711)  # An unknown delivery: RabbitMQ closes the channel, as it does after 30 minutes.
    await settler.channel.closed
    await bus.publish(GATEWAY, SchedulerHello("after"))
    assert await seen.get() == "after"
    assert bus.connected


async def test_an_exchange_that_somebody_deleted_is_declared_again(make_bus: MakeBus, broker: PrivateBroker) -> None:
    bus = await make_bus()
    await asyncio.to_thread(
        broker.node.control,
        "rabbit_exchange:delete(rabbit_misc:r("
        f'<<"{bus_vhost(bus)}">>, exchange, <<"{GATEWAY.exchange}">>), false, <<"test">>).',
    )
    await asyncio.gather(*(bus.publish(GATEWAY, SchedulerHello(str(number))) for number in range(10)))
    assert await bus.count(GATEWAY_INBOX) == 10


def bus_vhost(bus: Bus) -> str:
    """Return the vhost that a bus uses."""
    return bus._publishing._url.rpartition("/")[2]


async def test_two_brokers_run_side_by_side(broker: PrivateBroker, own_broker: PrivateBroker) -> None:
    own_broker.start()
    here, there = Bus(broker.url, app_id="here"), Bus(own_broker.url, app_id="there")
    await asyncio.gather(here.start(), there.start())
    assert broker.node.port != own_broker.node.port
    before = await there.count(GATEWAY_INBOX)
    await here.publish(GATEWAY, SchedulerHello("here"))
    assert await here.count(GATEWAY_INBOX) == 1
    assert await there.count(GATEWAY_INBOX) == before
    await asyncio.gather(here.stop(), there.stop())
