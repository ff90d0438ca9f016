from __future__ import annotations

import asyncio
import socket
import time
import uuid
from pathlib import Path  # noqa: TC003 -- pytest reads annotations.
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import AsyncMock

import aiohttp
import jwt
import pytest
from qonduit_service_kit.messages import QpuReply, QpuRequest, QpuState, QpuTransition
from qonduit_worker.qpu_endpoint import Blobs, ProgramContext, QpuEndpoint, job_table
from qonduit_worker.qpu_endpoint.broker_calls import BrokerCalls, BrokerGoneError, Call, Received
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


FOR_EVER = 10_000.0


async def test_a_rapid_repeat_is_held_until_something_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAPID_S", "HOLD_S", "RESYNC_S"):
        monkeypatch.setattr(job_table, name, FOR_EVER)
    table, broker = JobTable(), _Broker()
    table.apply(QUEUED)
    assert (await table.poll("q1", broker.answer)).body == b"1"
    held = asyncio.create_task(table.poll("q1", broker.answer))
    done, _ = await asyncio.wait([held], timeout=0.05)
    assert not done
    table.apply(RUNNING)
    assert (await asyncio.wait_for(held, 60)).body == b"2"


async def test_a_job_that_ended_is_asked_for_once_more_and_never_again() -> None:
    table, broker = JobTable(), _Broker()
    for step in (QUEUED, RUNNING, COMPLETED):
        table.apply(step)
    answers = [(await table.poll("q1", broker.answer)).body for _ in range(5)]
    assert answers == [b"1"] * 5
    table.touch("q1")
    assert (await table.poll("q1", broker.answer)).body == b"2"


async def test_a_job_that_ended_in_an_earlier_attempt_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAPID_S", "HOLD_S"):
        monkeypatch.setattr(job_table, name, FOR_EVER)
    table = JobTable()

    async def ended() -> Received:
        return Received(200, "application/json", b'{"state": {"status": "Completed"}}')

    for _ in range(3):
        assert (await asyncio.wait_for(table.poll("q1", ended), 60)).status == 200


async def test_while_the_broker_is_down_a_waiting_program_gets_what_was_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RESYNC_S", "PATIENCE_S", "HOLD_S"):
        monkeypatch.setattr(job_table, name, 0.01)
    table, broker = JobTable(), _Broker()
    table.apply(QUEUED)
    await table.poll("q1", broker.answer)
    broker.up.clear()
    assert (await asyncio.wait_for(table.poll("q1", broker.answer), 60)).body == b"1"
    assert broker.asked == 2


async def test_a_lost_transition_does_not_hang_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RESYNC_S", "HOLD_S"):
        monkeypatch.setattr(job_table, name, 0.01)
    table, broker = JobTable(), _Broker()
    table.apply(QUEUED)
    await table.poll("q1", broker.answer)
    assert (await asyncio.wait_for(table.poll("q1", broker.answer), 60)).body == b"2"


async def test_ids_that_nobody_knows_are_not_kept() -> None:
    table = JobTable()

    async def unknown() -> Received:
        return Received(404, "application/json", b"{}")

    for number in range(100):
        assert (await table.poll(f"q{number}", unknown)).status == 404
    assert not table._jobs


class _Parts:
    """Names for files, of which none is ever taken over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def new_part(self) -> Path:
        return self._folder / f"{uuid.uuid4().hex}.part"


async def test_large_bodies_are_held_a_few_at_a_time_and_small_ones_pass(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    posted: list[int] = []
    let, full, several = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def call(_self: BrokerCalls, call: Call) -> Received:
        assert call.body is not None
        posted.append(call.body.part.stat().st_size if call.body.part else len(call.body.data or b""))
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
        blobs=cast("Blobs", _Parts(tmp_path)),
        context=context,
        devices=DeviceCache(),
        on_transition=AsyncMock(),
    )
    await endpoint.start(listener)
    headers = {"Authorization": f"apikey {endpoint.environment()['QISKIT_IBM_TOKEN']}"}
    url = f"{endpoint.environment()['QISKIT_IBM_URL']}/jobs"
    async with aiohttp.ClientSession(headers=headers) as session:
        posts = [asyncio.create_task(session.post(url, data=b"x" * 200_000)) for _ in range(8)]
        async with asyncio.timeout(60):
            await full.wait()
            posts.append(asyncio.create_task(session.post(url, data=b"small")))
            await several.wait()
        assert posted == [200_000] * 4 + [5]
        let.set()
        assert [answer.status for answer in await asyncio.gather(*posts)] == [200] * 9
    await endpoint.stop()
    assert not [*tmp_path.iterdir()]  # noqa: ASYNC240 -- a test's own folder.


def _waiting() -> bool:
    return False


def _gone() -> bool:
    return True


def test_the_same_posts_get_the_same_numbers_in_any_order() -> None:
    first, second = CallNumbers(), CallNumbers()
    posts = [("/jobs", "a"), ("/jobs", "b"), ("/jobs", "a"), ("/sessions", "a")]
    numbers = sorted((*post, first.take(*post, _waiting).value) for post in posts)
    again = sorted((*post, second.take(*post, _waiting).value) for post in reversed(posts))
    assert numbers == again == [("/jobs", "a", 1), ("/jobs", "a", 2), ("/jobs", "b", 1), ("/sessions", "a", 1)]


def test_a_post_that_is_repeated_after_a_failure_keeps_its_number() -> None:
    numbers = CallNumbers()
    first, second = (numbers.take("/jobs", "a", _waiting) for _ in range(2))
    numbers.settle(first, answered=False)
    repeated = numbers.take("/jobs", "a", _waiting)
    assert [second.value, repeated.value] == [2, 1]
    numbers.settle(repeated, answered=True)
    numbers.settle(second, answered=True)
    assert numbers.take("/jobs", "a", _waiting).value == 3


def test_a_post_whose_answer_nobody_waits_for_gives_its_number_to_the_next_one() -> None:
    numbers = CallNumbers()
    lost = numbers.take("/jobs", "a", _gone)
    repeated = numbers.take("/jobs", "a", _waiting)
    assert lost.value == repeated.value == 1
    numbers.settle(lost, answered=False)
    assert numbers.take("/jobs", "a", _waiting).value == 2, "the repeat is being answered"


def test_refused_posts_are_not_kept() -> None:
    numbers = CallNumbers()
    for digest in range(100):
        several = [numbers.take("/jobs", str(digest), _waiting) for _ in range(3)]
        for number in several:
            numbers.settle(number, answered=False)
    assert not numbers._posts


async def test_programs_that_ask_for_the_same_device_share_one_request() -> None:
    cache, broker = DeviceCache(), _Broker()
    broker.up.clear()
    key = ("/backends/ibm_torino/properties", (), "2026-04-15")
    asking = [asyncio.create_task(cache.get(key, broker.answer)) for _ in range(5)]
    await asyncio.sleep(0)
    broker.up.set()
    assert {answer.body for answer in await asyncio.gather(*asking)} == {b"1"}
    assert (await cache.get(key, broker.answer)).body == b"1"


async def test_a_program_that_is_stopped_takes_no_other_programs_question_with_it() -> None:
    cache, broker = DeviceCache(), _Broker()
    stopped = asyncio.Event()

    async def ends() -> Received:
        await stopped.wait()
        raise BrokerGoneError

    key = ("/backends", (), "2026-04-15")
    first = asyncio.create_task(cache.get(key, ends))
    await asyncio.sleep(0)
    second = asyncio.create_task(cache.get(key, broker.answer))
    await asyncio.sleep(0)
    stopped.set()
    with pytest.raises(BrokerGoneError):
        await first
    assert (await second).body == b"1"


async def test_who_asks_in_the_moment_in_which_another_question_fails_asks_anew() -> None:
    cache, broker = DeviceCache(), _Broker()
    key = ("/backends", (), "2026-04-15")
    then: list[asyncio.Task[Received]] = []

    async def ends() -> Received:
        # Begins when this has failed, and before anybody has heard of it.
        then.append(asyncio.create_task(cache.get(key, broker.answer)))
        raise BrokerGoneError

    with pytest.raises(BrokerGoneError):
        await cache.get(key, ends)
    assert (await then[0]).body == b"1"


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


def test_a_token_is_good_for_an_hour_and_for_what_its_signature_covers() -> None:
    now = time.time()
    fresh, old = Identity("job-1", lambda: now), Identity("job-1", lambda: now - 3601)
    assert fresh.admits("Bearer " + fresh.access_token()["access_token"])
    assert not old.admits("Bearer " + old.access_token()["access_token"])
    claims = {"sub": "job-1", "iat": int(now), "exp": int(now) + 60}
    for key, algorithm in (("", "none"), (fresh.token, "HS256")):
        assert not fresh.admits("Bearer " + jwt.encode(claims, key, algorithm=algorithm))
    for other in ({"sub": "job-2"}, {"sub": None}, {"exp": None}, {"exp": int(now) - 1}):
        forged = {name: value for name, value in (claims | other).items() if value is not None}
        assert not fresh.admits("Bearer " + jwt.encode(forged, fresh._key, algorithm="HS256"))


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
