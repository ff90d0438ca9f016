"""Publishing on a real RabbitMQ: confirmed, routed, in order, or refused with a reason."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from qonduit_service_kit.bus import (
    GATEWAY_INBOX,
    Bus,
    BusClosedError,
    BusError,
    Delivery,
    MessageTooLargeError,
    Queue,
    UnroutableError,
)
from qonduit_service_kit.bus import bus as bus_module
from qonduit_service_kit.bus.errors import TopologyError
from qonduit_service_kit.messages import GATEWAY, Address, SchedulerHello, worker

if TYPE_CHECKING:
    from qonduit_service_kit.testing import MakeBus


class Collector:
    """A handler that keeps what it got and tells when it is enough."""

    def __init__(self, wanted: int) -> None:
        self.texts: list[str] = []
        self.deliveries: list[Delivery] = []
        self._wanted = wanted
        self.complete = asyncio.Event()

    async def __call__(self, delivery: Delivery) -> None:
        self.texts.append(delivery.message.scheduler_id)
        self.deliveries.append(delivery)
        if len(self.texts) >= self._wanted:
            self.complete.set()


async def test_a_confirmed_message_waits_for_a_consumer_that_comes_later(make_bus: MakeBus) -> None:
    sender = await make_bus("sender")
    before = time.monotonic()
    await sender.publish(GATEWAY, SchedulerHello("a"), message_id="id-1")
    assert sender.last_confirm_at >= before
    receiver = await make_bus("receiver")
    got = Collector(1)
    await receiver.consume(GATEWAY_INBOX, got)
    await got.complete.wait()
    delivery = got.deliveries[0]
    assert delivery.message == SchedulerHello("a")
    assert (delivery.message_id, delivery.sender, delivery.redelivered) == ("id-1", "sender", False)


async def test_thousands_in_flight_are_confirmed_and_keep_their_order(make_bus: MakeBus) -> None:
    bus = await make_bus()
    texts = [str(number) for number in range(3000)]
    got = Collector(len(texts))
    await bus.consume(GATEWAY_INBOX, got)
    await asyncio.gather(*(bus.publish(GATEWAY, SchedulerHello(text)) for text in texts))
    await got.complete.wait()
    assert got.texts == texts


async def test_only_the_unroutable_one_of_many_in_flight_is_refused(make_bus: MakeBus) -> None:
    bus = await make_bus()
    addresses = [GATEWAY, worker("nobody"), GATEWAY, Address("qonduit.gateway", "no-such-key")]
    outcomes = await asyncio.gather(
        *(bus.publish(address, SchedulerHello("x")) for address in addresses), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), UnroutableError, type(None), UnroutableError]
    assert "nobody" in str(outcomes[1])
    assert await bus.count(GATEWAY_INBOX) == 2


async def test_a_message_nobody_must_get_is_dropped_when_nobody_listens(make_bus: MakeBus) -> None:
    bus = await make_bus()
    await bus.publish(worker("nobody"), SchedulerHello("x"), mandatory=False)


async def test_an_exchange_nobody_declared_is_refused_and_disturbs_nothing(make_bus: MakeBus) -> None:
    bus = await make_bus()
    with pytest.raises(UnroutableError, match=r"qonduit\.elsewhere"):
        await bus.publish(Address("qonduit.elsewhere", "x"), SchedulerHello("x"))
    await bus.publish(GATEWAY, SchedulerHello("x"))


async def test_a_queue_with_other_arguments_is_refused_and_the_bus_goes_on(make_bus: MakeBus) -> None:
    bus = await make_bus()
    address = Address("qonduit.workers", "w")
    await bus.declare(Queue("mine", address, expires_s=60))
    with pytest.raises(TopologyError, match="inequivalent arg"):
        await bus.declare(Queue("mine", address, expires_s=90))
    await bus.publish(address, SchedulerHello("x"))


async def test_a_stopped_bus_takes_nothing_and_can_be_stopped_again(
    make_bus: MakeBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "DRAIN_S", 120)
    bus = await make_bus()
    sending = [asyncio.create_task(bus.publish(GATEWAY, SchedulerHello(str(number)))) for number in range(100)]
    await asyncio.sleep(0)  # The tasks begin: what was begun before a stop is still confirmed.
    await bus.stop()
    await asyncio.gather(*sending)
    await bus.stop()
    with pytest.raises(BusClosedError):
        await bus.publish(GATEWAY, SchedulerHello("late"))


async def test_no_broker_is_told_with_its_address_and_without_the_password() -> None:
    bus = Bus("amqp://user:hidden@127.0.0.1:9/", app_id="test")
    with pytest.raises(BusError, match=r"127\.0\.0\.1:9 .*refused") as caught:
        await start_after_a_try(bus)
    assert "hidden" not in str(caught.value)


async def test_a_wrong_password_is_told(bus_url: str) -> None:
    user, _, rest = bus_url.removeprefix("amqp://").partition(":")
    bus = Bus(f"amqp://{user}:wrong@{rest.partition('@')[2]}", app_id="test")
    with pytest.raises(BusError, match="ACCESS_REFUSED"):
        await start_after_a_try(bus)


async def start_after_a_try(bus: Bus) -> None:
    """Start it with no more time than until its first try has failed."""
    bus._publishing.start()
    async with asyncio.timeout(60):
        while not bus._publishing.last_error:  # noqa: ASYNC110 - It tells nobody but its log.
            await asyncio.sleep(0.01)
    await bus.start(timeout_s=0)


async def test_an_abandoned_publish_leaves_the_others_alone(make_bus: MakeBus) -> None:
    bus = await make_bus()
    abandoned = asyncio.create_task(bus.publish(GATEWAY, SchedulerHello("abandoned")))
    await asyncio.sleep(0)  # It is on its way.
    abandoned.cancel()
    await bus.publish(GATEWAY, SchedulerHello("kept"))
    assert abandoned.cancelled()


async def test_what_the_wire_cannot_carry_is_refused_and_disturbs_nothing(make_bus: MakeBus) -> None:
    bus = await make_bus()
    with pytest.raises(MessageTooLargeError, match="through storage"):
        await bus.publish(GATEWAY, SchedulerHello("x" * 9_000_000))
    with pytest.raises(BusError, match="longer than 255"):
        await bus.publish(GATEWAY, SchedulerHello("x"), message_id="é" * 200)
    with pytest.raises(BusError, match="longer than 255"):
        await bus.publish(worker("w" * 300), SchedulerHello("x"))
    await bus.publish(GATEWAY, SchedulerHello("x"))
    assert await bus.count(GATEWAY_INBOX) == 1
