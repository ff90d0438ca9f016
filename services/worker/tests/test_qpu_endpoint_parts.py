from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import AsyncMock

import aiohttp
import pytest  # noqa: TC002 -- its annotations are read at run time.
from qonduit_service_kit.messages import QpuReply, QpuRequest, QpuState, QpuTransition
from qonduit_worker.qpu_endpoint import Blobs, ProgramContext, QpuEndpoint, job_table
from qonduit_worker.qpu_endpoint.broker_calls import BrokerCalls, Call, Received
from qonduit_worker.qpu_endpoint.call_numbers import CallNumbers
from qonduit_worker.qpu_endpoint.device_cache import DeviceCache
from qonduit_worker.qpu_endpoint.identity import Identity, usage_document
from qonduit_worker.qpu_endpoint.job_table import JobTable

if TYPE_CHECKING:
    from qonduit_service_kit.bus import Bus


def _step(sequence: int, state: QpuState, qpu_seconds: float | None = None) -> QpuTransition:
    return QpuTransition("q1", "job", 1, sequence, state, 1.0, "ibm_torino", qpu_seconds=qpu_seconds)


QUEUED = _step(0, QpuState.QUEUED)
RUNNING = _step(1, QpuState.RUNNING)
COMPLETED = _step(2, QpuState.COMPLETED, 2.5)


def test_transitions_come_out_in_order_and_once_however_they_come_in() -> None:
    table = JobTable()
    assert table.apply(RUNNING) == []
    assert table.apply(QUEUED) == [QUEUED, RUNNING]
    assert table.apply(QUEUED) == []
    assert table.apply(COMPLETED) == [COMPLETED]
    assert table.apply(COMPLETED) == []
    assert table.consumed_s == 2.5


class _Broker:
    """Counts what it is asked; answers when let."""

    def __init__(self) -> None:
        self.asked = 0
        self.up = asyncio.Event()
        self.up.set()

    async def answer(self) -> Received:
        self.asked += 1
        await self.up.wait()
        return Received(200, "application/json", str(self.asked).encode())


async def test_a_rapid_repeat_is_held_until_something_changes() -> None:
    table, broker = JobTable(), _Broker()
    table.apply(QUEUED)
    assert (await table.poll("q1", broker.answer)).body == b"1"
    held = asyncio.create_task(table.poll("q1", broker.answer))
    done, _ = await asyncio.wait([held], timeout=0.05)
    assert not done
    table.apply(RUNNING)
    assert (await asyncio.wait_for(held, 1)).body == b"2"


async def test_a_job_that_ended_is_asked_for_once_more_and_never_again() -> None:
    table, broker = JobTable(), _Broker()
    for step in (QUEUED, RUNNING, COMPLETED):
        table.apply(step)
    answers = [(await table.poll("q1", broker.answer)).body for _ in range(5)]
    assert answers == [b"1"] * 5
    table.touch("q1")
    assert (await table.poll("q1", broker.answer)).body == b"2"


async def test_a_job_that_ended_in_an_earlier_attempt_is_not_waited_for() -> None:
    table = JobTable()

    async def ended() -> Received:
        return Received(200, "application/json", b'{"state": {"status": "Completed"}}')

    for _ in range(3):
        assert (await asyncio.wait_for(table.poll("q1", ended), 1)).status == 200


async def test_while_the_broker_is_down_a_waiting_program_gets_what_was_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RESYNC_S", "PATIENCE_S", "HOLD_S"):
        monkeypatch.setattr(job_table, name, 0.01)
    table, broker = JobTable(), _Broker()
    table.apply(QUEUED)
    await table.poll("q1", broker.answer)
    broker.up.clear()
    assert (await asyncio.wait_for(table.poll("q1", broker.answer), 1)).body == b"1"
    assert broker.asked == 2


async def test_a_lost_transition_does_not_hang_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RESYNC_S", "HOLD_S"):
        monkeypatch.setattr(job_table, name, 0.01)
    table, broker = JobTable(), _Broker()
    table.apply(QUEUED)
    await table.poll("q1", broker.answer)
    assert (await asyncio.wait_for(table.poll("q1", broker.answer), 1)).body == b"2"


async def test_ids_that_nobody_knows_are_not_kept() -> None:
    table = JobTable()

    async def unknown() -> Received:
        return Received(404, "application/json", b"{}")

    for number in range(100):
        assert (await table.poll(f"q{number}", unknown)).status == 404
    assert not table._jobs


async def test_large_bodies_are_held_a_few_at_a_time_and_small_ones_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    posted: list[int] = []
    let, full, several = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def call(_self: BrokerCalls, call: Call) -> Received:
        posted.append(len(call.body or b""))
        if len(posted) == 4:
            full.set()
        if len(posted) == 5:
            several.set()
        await let.wait()
        return Received(200, "application/json", b"{}")

    monkeypatch.setattr(BrokerCalls, "call", call)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    context = ProgramContext("job", 1, "ada", "w1")
    endpoint = QpuEndpoint(
        port=port,
        bus=cast("Bus", None),
        blobs=cast("Blobs", None),
        context=context,
        devices=DeviceCache(),
        on_transition=AsyncMock(),
    )
    await endpoint.start(listener)
    headers = {"Authorization": f"apikey {endpoint.environment()['QISKIT_IBM_TOKEN']}"}
    url = f"{endpoint.environment()['QISKIT_IBM_URL']}/jobs"
    async with aiohttp.ClientSession(headers=headers) as session:
        posts = [asyncio.create_task(session.post(url, data=b"x" * 200_000)) for _ in range(8)]
        async with asyncio.timeout(10):
            await full.wait()
            posts.append(asyncio.create_task(session.post(url, data=b"small")))
            await several.wait()
        assert posted == [200_000] * 4 + [5]
        let.set()
        assert [answer.status for answer in await asyncio.gather(*posts)] == [200] * 9
    await endpoint.stop()


def test_the_same_posts_get_the_same_numbers_in_any_order() -> None:
    first, second = CallNumbers(), CallNumbers()
    posts = [("/jobs", "a"), ("/jobs", "b"), ("/jobs", "a"), ("/sessions", "a")]
    numbers = sorted((path, body, first.take(path, body)) for path, body in posts)
    again = sorted((path, body, second.take(path, body)) for path, body in reversed(posts))
    assert numbers == again == [("/jobs", "a", 1), ("/jobs", "a", 2), ("/jobs", "b", 1), ("/sessions", "a", 1)]


def test_a_post_that_the_client_repeats_after_our_failure_keeps_its_number() -> None:
    numbers = CallNumbers()
    taken = numbers.take("/jobs", "a")
    numbers.give_back("/jobs", "a", taken)
    assert numbers.take("/jobs", "a") == taken
    assert numbers.take("/jobs", "a") == taken + 1


async def test_programs_that_ask_for_the_same_device_share_one_request() -> None:
    cache, broker = DeviceCache(), _Broker()
    broker.up.clear()
    key = ("/backends/ibm_torino/properties", (), "2026-04-15")
    asking = [asyncio.create_task(cache.get(key, broker.answer)) for _ in range(5)]
    await asyncio.sleep(0)
    broker.up.set()
    assert {answer.body for answer in await asyncio.gather(*asking)} == {b"1"}
    assert (await cache.get(key, broker.answer)).body == b"1"


async def test_the_cache_of_devices_keeps_to_its_size_and_keeps_no_failures() -> None:
    cache = DeviceCache(capacity_bytes=3000)

    async def large() -> Received:
        return Received(200, "application/json", b"x" * 60)

    async def failing() -> Received:
        return Received(503, "application/json", b"")

    for number in range(5):
        await cache.get((f"/backends/{number}/properties", (), ""), large)
    assert cache._size_bytes <= 3000
    for number in range(5):
        await cache.get(("/backends/ibm_torino/status", (("x", f"{number}" * 2000),), ""), large)
    assert len(cache._entries) == 1, "what a program asks with counts, not only what it is answered"
    await cache.get(("/backends", (), ""), failing)
    assert (await cache.get(("/backends", (), ""), large)).status == 200


def test_a_token_is_good_for_its_own_program_only() -> None:
    mine, other = Identity("job-1"), Identity("job-2")
    bearer = "Bearer " + mine.access_token()["access_token"]
    assert mine.admits(bearer)
    assert mine.admits(f"apikey {mine.token}")
    assert not other.admits(bearer)
    assert not other.admits(f"apikey {mine.token}")
    for nonsense in (
        "",
        "Bearer",
        "Bearer a.b.c",
        "Basic eDp5",
        "apikey ",
        "apikey \u00e9",
        "apikey \udce9",
        "Bearer \udce9",
    ):
        assert not mine.admits(nonsense)


def test_the_instance_shows_the_jobs_budget_as_its_limit() -> None:
    free = usage_document(3.0, None)
    assert (free["usage_consumed_seconds"], free["usage_limit_reached"]) == (3.0, False)
    assert "usage_limit_seconds" not in free
    for consumed_s, reached in ((1.5, False), (2.0, True), (2.5, True)):
        shown = usage_document(consumed_s, 2.0)
        assert (shown["usage_limit_seconds"], shown["usage_limit_reached"]) == (2.0, reached)


async def test_every_request_carries_the_budgets() -> None:
    sent: list[QpuRequest] = []

    class OtherSide:
        async def publish(self, _to: object, body: QpuRequest, **_how: object) -> None:
            sent.append(body)
            calls.handle_reply(QpuReply(body.request_id, 200, body=b"{}"))

    context = ProgramContext("job", 1, "ada", "w1", qpu_budget_s=60.0, user_qpu_budget_s=600.0)
    calls = BrokerCalls(cast("Any", OtherSide()), cast("Blobs", None), context)
    await calls.call(Call("GET", "/jobs"))
    assert [(request.qpu_budget_s, request.user_qpu_budget_s) for request in sent] == [(60.0, 600.0)]
