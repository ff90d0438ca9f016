"""Consuming on a real RabbitMQ: order, failures, dead letters, takeover, queues that go away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from qonduit_service_kit.bus import (
    DEAD_LETTERS,
    GATEWAY_INBOX,
    SCHEDULER_INBOX,
    Bus,
    Delivery,
    Queue,
    RawDelivery,
    RawMessage,
    RejectMessage,
    Subscription,
    tasks_queue,
    worker_inbox,
)
from qonduit_service_kit.bus import consumer as consumer_module
from qonduit_service_kit.bus.errors import TopologyError
from qonduit_service_kit.bus.topology import DELIVERY_LIMIT
from qonduit_service_kit.messages import (
    ALL_WORKERS,
    GATEWAY,
    SCHEDULER,
    Address,
    SchedulerElected,
    SchedulerHello,
    Shape,
    task_queue,
    worker,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qonduit_service_kit.testing import MakeBus


async def dead_letter(bus: Bus) -> RawMessage:
    """Take the next dead letter off its queue."""
    found: asyncio.Future[RawMessage] = asyncio.get_running_loop().create_future()

    async def keep(delivery: RawDelivery) -> None:
        found.set_result(delivery.raw)

    subscription = await bus.consume_raw(DEAD_LETTERS, keep, prefetch=1)
    raw = await found
    await subscription.cancel()
    return raw


def into(queue: asyncio.Queue[str]) -> Callable[[Delivery], Awaitable[None]]:
    """Return a handler that puts what it gets into a queue."""

    async def handler(delivery: Delivery) -> None:
        queue.put_nowait(delivery.message.scheduler_id)

    return handler


async def test_a_handler_that_fails_is_called_again_and_the_order_stays(
    make_bus: MakeBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "RETRY_FIRST_S", 0.001)
    bus = await make_bus()
    seen: list[tuple[str, bool]] = []
    complete = asyncio.Event()

    async def handler(delivery: Delivery) -> None:
        seen.append((delivery.message.scheduler_id, delivery.redelivered))
        if len(seen) <= 3:
            raise OSError("the database is busy")
        if delivery.message.scheduler_id == "c":
            complete.set()

    for text in "abc":
        await bus.publish(GATEWAY, SchedulerHello(text))
    await bus.consume(GATEWAY_INBOX, handler)
    await complete.wait()
    assert seen == [("a", False), ("a", True), ("a", True), ("a", True), ("b", False), ("c", False)]


async def test_a_rejected_message_is_a_dead_letter_with_its_reason(make_bus: MakeBus) -> None:
    bus = await make_bus("sender")

    async def handler(delivery: Delivery) -> None:
        raise RejectMessage(f"unknown job {delivery.message.scheduler_id}")

    await bus.consume(GATEWAY_INBOX, handler)
    await bus.publish(GATEWAY, SchedulerHello("j-1"), message_id="id-1")
    raw = await dead_letter(bus)
    assert raw.reason == "unknown job j-1"
    assert (raw.source_queue, raw.type_name) == ("gateway.inbox", "gateway.scheduler_hello/1")
    assert (raw.message_id, raw.sender) == ("id-1", "sender")
    assert Address(raw.exchange, raw.key) == GATEWAY
    assert await bus.count(GATEWAY_INBOX) == 0


async def test_a_handler_may_reject_with_a_reason(make_bus: MakeBus) -> None:
    bus = await make_bus()

    async def handler(delivery: Delivery) -> None:
        await delivery.reject("not for me")

    await bus.consume(GATEWAY_INBOX, handler)
    await bus.publish(GATEWAY, SchedulerHello("x"))
    assert (await dead_letter(bus)).reason == "not for me"


@pytest.mark.parametrize(
    ("type_name", "body", "reason"),
    [
        ("gateway.no_such_message/1", b"\x80", "unknown message type"),
        ("gateway.scheduler_hello/9", b"\x80", "unknown message type"),
        ("gateway.scheduler_hello/1", b"\xc1 not msgpack", "gateway.scheduler_hello/1"),
        ("gateway.scheduler_hello/1", b"\x80", "scheduler_id"),
        ("", b"", "not name/version"),
    ],
)
async def test_what_cannot_be_read_is_a_dead_letter_and_blocks_nobody(
    make_bus: MakeBus, type_name: str, body: bytes, reason: str
) -> None:
    bus = await make_bus()
    got: asyncio.Queue[str] = asyncio.Queue()
    await bus.consume(GATEWAY_INBOX, into(got))
    await bus.publish_raw(GATEWAY, body, type_name=type_name)
    await bus.publish(GATEWAY, SchedulerHello("next"))
    assert await got.get() == "next"
    raw = await dead_letter(bus)
    assert reason in raw.reason
    assert raw.body == body


async def test_a_message_no_handler_can_do_is_a_dead_letter_with_the_last_error(
    make_bus: MakeBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "RETRY_FIRST_S", 0.001)
    bus = await make_bus()
    tries = 0

    async def handler(delivery: Delivery) -> None:
        nonlocal tries
        tries += 1
        raise KeyError(delivery.message.scheduler_id)

    await bus.consume(GATEWAY_INBOX, handler)
    await bus.publish(GATEWAY, SchedulerHello("poison"))
    assert (await dead_letter(bus)).reason == "KeyError: 'poison'"
    assert tries == consumer_module.HANDLER_ATTEMPTS


async def test_a_message_that_ends_its_consumer_again_and_again_is_a_dead_letter(make_bus: MakeBus) -> None:
    bus = await make_bus()
    taken: asyncio.Queue[str] = asyncio.Queue()

    async def never_ends(delivery: Delivery) -> None:
        taken.put_nowait(delivery.message.scheduler_id)
        await asyncio.Event().wait()

    await bus.publish(GATEWAY, SchedulerHello("poison"))
    for _ in range(DELIVERY_LIMIT + 1):
        subscription = await bus.consume(GATEWAY_INBOX, never_ends)
        assert await taken.get() == "poison"
        await subscription.cancel(grace_s=0)
    raw = await dead_letter(bus)
    assert (raw.reason, raw.source_queue) == ("delivery_limit", "gateway.inbox")
    assert Address(raw.exchange, raw.key) == GATEWAY


async def test_a_dead_letter_can_be_sent_to_where_it_was_meant_for(make_bus: MakeBus) -> None:
    bus = await make_bus()
    accept = False
    got: asyncio.Queue[str] = asyncio.Queue()

    async def handler(delivery: Delivery) -> None:
        if not accept:
            raise RejectMessage("not yet")
        got.put_nowait(delivery.message_id)

    await bus.consume(GATEWAY_INBOX, handler)
    await bus.publish(GATEWAY, SchedulerHello("x"), message_id="id-7")
    raw = await dead_letter(bus)
    accept = True
    await bus.publish_raw(Address(raw.exchange, raw.key), raw.body, type_name=raw.type_name, message_id=raw.message_id)
    assert await got.get() == "id-7"


async def test_a_cancelled_subscription_gives_back_what_it_had(make_bus: MakeBus) -> None:
    bus = await make_bus()
    begun, may_end = asyncio.Event(), asyncio.Event()
    done: list[str] = []

    async def slow(delivery: Delivery) -> None:
        begun.set()
        await may_end.wait()
        done.append(delivery.message.scheduler_id)

    for text in "abc":
        await bus.publish(GATEWAY, SchedulerHello(text))
    subscription = await bus.consume(GATEWAY_INBOX, slow)
    await begun.wait()
    cancelling = asyncio.create_task(subscription.cancel())
    await asyncio.sleep(0)  # It waits for the running handler now.
    may_end.set()
    await cancelling
    await subscription.cancel()
    got: asyncio.Queue[str] = asyncio.Queue()
    await bus.consume(GATEWAY_INBOX, into(got))
    assert done == ["a"]
    assert [await got.get() for _ in range(2)] == ["b", "c"]


async def test_a_handler_may_cancel_its_own_subscription(make_bus: MakeBus) -> None:
    bus = await make_bus()
    mine: asyncio.Future[Subscription] = asyncio.get_running_loop().create_future()
    ended = asyncio.Event()

    async def only_once(delivery: Delivery) -> None:
        await delivery.ack()
        await (await mine).cancel()
        ended.set()

    await bus.publish(GATEWAY, SchedulerHello("a"))
    await bus.publish(GATEWAY, SchedulerHello("b"))
    mine.set_result(await bus.consume(GATEWAY_INBOX, only_once))
    await ended.wait()
    got: asyncio.Queue[str] = asyncio.Queue()
    await bus.consume(GATEWAY_INBOX, into(got))
    assert await got.get() == "b"


async def test_what_a_handler_settled_is_not_handled_again_when_it_fails_after(make_bus: MakeBus) -> None:
    bus = await make_bus()
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def acknowledges_and_fails(delivery: Delivery) -> None:
        seen.put_nowait(delivery.message.scheduler_id)
        await delivery.ack()
        raise OSError("after the fact")

    await bus.consume(GATEWAY_INBOX, acknowledges_and_fails)
    for text in "abc":
        await bus.publish(GATEWAY, SchedulerHello(text))
    assert [await seen.get() for _ in range(3)] == ["a", "b", "c"]


async def test_a_cancellation_inside_a_handler_is_a_failure_like_others(
    make_bus: MakeBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "RETRY_FIRST_S", 0.001)
    bus = await make_bus()
    seen: asyncio.Queue[bool] = asyncio.Queue()

    async def awaits_something_cancelled(delivery: Delivery) -> None:
        seen.put_nowait(delivery.redelivered)
        if not delivery.redelivered:
            inner = asyncio.ensure_future(asyncio.Event().wait())
            inner.cancel()
            await inner

    await bus.consume(GATEWAY_INBOX, awaits_something_cancelled)
    await bus.publish(GATEWAY, SchedulerHello("x"))
    assert [await seen.get() for _ in range(2)] == [False, True]


async def test_a_dead_letter_that_cannot_be_kept_yet_is_tried_again(
    make_bus: MakeBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "RETRY_FIRST_S", 0.0001)
    monkeypatch.setattr(consumer_module, "RETRY_MAX_S", 0.0001)
    bus = await make_bus()
    kept = asyncio.Event()
    tries = 0

    async def keeps_at_last(_delivery: RawDelivery) -> None:
        nonlocal tries
        tries += 1
        if tries <= consumer_module.HANDLER_ATTEMPTS + 5:
            raise OSError("the database is busy")
        kept.set()

    await bus.publish_raw(DEAD_LETTERS.address, b"x", type_name="any")
    await bus.consume_raw(DEAD_LETTERS, keeps_at_last)
    await kept.wait()


async def test_a_message_given_back_comes_again(make_bus: MakeBus) -> None:
    bus = await make_bus()
    seen: asyncio.Queue[bool] = asyncio.Queue()

    async def handler(delivery: Delivery) -> None:
        seen.put_nowait(delivery.redelivered)
        if not delivery.redelivered:
            await delivery.requeue()

    await bus.consume(GATEWAY_INBOX, handler)
    await bus.publish(GATEWAY, SchedulerHello("x"))
    assert [await seen.get() for _ in range(2)] == [False, True]


async def test_handlers_run_side_by_side_up_to_the_concurrency(make_bus: MakeBus) -> None:
    bus = await make_bus()
    running: set[str] = set()
    four, complete = asyncio.Event(), asyncio.Event()
    left = 8

    async def handler(delivery: Delivery) -> None:
        nonlocal left
        running.add(delivery.message.scheduler_id)
        assert len(running) <= 4
        if len(running) == 4:
            four.set()
        await four.wait()
        running.remove(delivery.message.scheduler_id)
        left -= 1
        if left == 0:
            complete.set()

    await asyncio.gather(*(bus.publish(GATEWAY, SchedulerHello(str(number))) for number in range(8)))
    await bus.consume(GATEWAY_INBOX, handler, concurrency=4)
    await complete.wait()


async def test_a_standby_takes_over_when_the_active_consumer_goes(make_bus: MakeBus) -> None:
    first, second = await make_bus("first"), await make_bus("second")
    got: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    def tagged(name: str) -> Callable[[Delivery], Awaitable[None]]:
        async def handler(delivery: Delivery) -> None:
            got.put_nowait((name, delivery.message.scheduler_id))

        return handler

    await first.consume(SCHEDULER_INBOX, tagged("first"))
    await second.consume(SCHEDULER_INBOX, tagged("second"))
    for text in "abc":
        await second.publish(SCHEDULER, SchedulerHello(text))
    assert [await got.get() for _ in range(3)] == [("first", "a"), ("first", "b"), ("first", "c")]
    await first.stop()
    await second.publish(SCHEDULER, SchedulerHello("d"))
    assert await got.get() == ("second", "d")


async def test_every_worker_gets_what_is_sent_to_all_and_one_what_is_sent_to_it(make_bus: MakeBus) -> None:
    bus = await make_bus()
    got: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    def tagged(name: str) -> Callable[[Delivery], Awaitable[None]]:
        async def handler(delivery: Delivery) -> None:
            got.put_nowait((name, delivery.message.term))

        return handler

    for name in ("w1", "w2"):
        await bus.consume(worker_inbox(name), tagged(name))
    await bus.publish(ALL_WORKERS, SchedulerElected(1))
    assert {await got.get(), await got.get()} == {("w1", 1), ("w2", 1)}
    await bus.publish(worker("w2"), SchedulerElected(2))
    assert await got.get() == ("w2", 2)


async def test_a_consumer_goes_on_when_its_queue_is_deleted_under_it(make_bus: MakeBus) -> None:
    bus, other = await make_bus("consumer"), await make_bus("other")
    queue = tasks_queue(task_queue("job", 1, Shape(1000, 1)))
    got: asyncio.Queue[str] = asyncio.Queue()
    await bus.consume(queue, into(got))
    await other.delete(queue)
    await other.delete(queue)  # Twice is no error.
    await other.declare(queue)
    await other.publish(queue.address, SchedulerHello("after"), persistent=False)
    assert await got.get() == "after"


async def test_a_queue_nobody_uses_expires(make_bus: MakeBus) -> None:
    bus = await make_bus()
    queue = Queue("short-lived", Address("qonduit.workers", "short"), expires_s=0.2)
    await bus.declare(queue)
    asked = 0
    while await exists(bus, queue):
        asked += 1
        assert asked < 200
        await asyncio.sleep(0.5)  # Asking counts as use: it is left alone for longer than it lives unused.


async def exists(bus: Bus, queue: Queue) -> bool:
    """Whether there is such a queue."""
    try:
        await bus.count(queue)
    except TopologyError as error:
        assert "NOT_FOUND" in str(error)  # noqa: PT017 - any other refusal is a failure.
        return False
    return True
