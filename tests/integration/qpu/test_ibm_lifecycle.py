"""What IBM's service makes of sessions, charges, limits, accounts and cancels, with a broker in this process."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import mortal_broker
import pytest
from fake_ibm import Fault, How, UpstreamSession
from mortal_broker import CHARGED, CLOSED, DEVICE, ENDED, RUNNING, Lives, account_of, count, job_body, only, request
from qonduit_qpu_broker.ibm import fleet, submitting
from qonduit_qpu_broker.ledger.thread import LedgerThread
from qonduit_qpu_broker.problems import Conflict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from fake_ibm import FakeIbm


@pytest.fixture
async def lives(ibm: FakeIbm, tmp_path: Path) -> AsyncIterator[Lives]:
    made = Lives(tmp_path, account_of(ibm))
    yield made
    await made.stop()


@pytest.fixture
async def hasty(ibm: FakeIbm, tmp_path: Path) -> AsyncIterator[Lives]:
    """One that closes idle sessions soon, and looks often whether they are closed."""
    made = Lives(tmp_path, account_of(ibm), session_idle_s=0.5)
    yield made
    await made.stop()


async def submit(lives: Lives, number: int = 1, body: bytes = b"", **more: Any) -> str:
    """Submit a job and return its id."""
    return str((await lives.ask(request("POST", "/jobs", body or job_body(), number=number, **more)))["id"])


async def state(lives: Lives, qpu_job_id: str) -> dict[str, Any]:
    """Return a job's state as its program sees it."""
    return dict((await lives.ask(request("GET", f"/jobs/{qpu_job_id}")))["state"])


async def usage(lives: Lives, qpu_job_id: str) -> dict[str, Any]:
    """Return a job's usage as its program sees it."""
    return dict((await lives.ask(request("GET", f"/jobs/{qpu_job_id}/metrics")))["usage"])


async def test_a_refusal_is_told_as_ibm_words_it_and_costs_nothing(ibm: FakeIbm, lives: Lives) -> None:
    ibm.faults.append(Fault("POST", "/jobs", status=409, code=1515))
    qpu_job_id = await submit(lives)
    await lives.until(CHARGED)
    assert await state(lives, qpu_job_id) == {"status": "Failed", "reason": "A fault on demand.", "reason_code": 1515}
    assert (await usage(lives, qpu_job_id))["qpu_charge_time_seconds"] == 0
    assert not ibm.quantum.jobs


async def test_seconds_that_are_final_late_are_booked_when_they_are(ibm: FakeIbm, lives: Lives) -> None:
    ibm.quantum.usage_pending_s = 600.0
    ibm.faults.append(Fault("GET", "/jobs/.*/metrics", status=500, times=2))
    qpu_job_id = await submit(lives)
    await lives.until(ENDED)
    assert await usage(lives, qpu_job_id) == {"qpu_charge_time_seconds": 0.0, "status": "pending"}
    ibm.quantum.usage_pending_s = 0.0
    await lives.until(CHARGED)
    charged_s = only(ibm).charged_s
    assert await usage(lives, qpu_job_id) == {"qpu_charge_time_seconds": charged_s, "status": "complete"}
    assert await lives.rows("SELECT charge_id, mode, qpu_seconds FROM charges") == [(qpu_job_id, "job", charged_s)]


async def test_a_job_that_ibm_does_not_know_any_more_fails_and_one_answer_is_not_believed(
    ibm: FakeIbm, lives: Lives
) -> None:
    async with ibm.quantum.running.held(ibm.quantum.running.queue_open):
        first = await submit(lives, 1)
        await lives.until(count("SELECT COUNT(*) FROM upstream_jobs WHERE upstream_id != ''"))
        ibm.faults.append(Fault("GET", "/jobs/[^/]*", status=404))
        job = only(ibm)
        job.deleted = True
        await asyncio.wait_for(ibm.faults[0].seen.wait(), 120)
        job.deleted = False
    await lives.until(ENDED)
    assert (await state(lives, first))["status"] == "Completed"
    async with ibm.quantum.running.held(ibm.quantum.running.queue_open):
        second = await submit(lives, 2)
        await lives.until(count("SELECT COUNT(*) = 2 FROM upstream_jobs WHERE upstream_id != ''"))
        list(ibm.quantum.jobs.values())[-1].deleted = True
        await lives.until(ENDED)
    assert await state(lives, second) == {"status": "Failed", "reason": "Job not found.", "reason_code": 1291}


async def test_a_job_that_waits_is_cancelled_for_nothing(ibm: FakeIbm, lives: Lives) -> None:
    async with ibm.quantum.running.held(ibm.quantum.running.queue_open):
        qpu_job_id = await submit(lives)
        await lives.until(count("SELECT COUNT(*) FROM upstream_jobs WHERE upstream_id != ''"))
        await lives.ask(request("POST", f"/jobs/{qpu_job_id}/cancel"))
        await lives.until(CHARGED)
    assert only(ibm).status == "Cancelled"
    assert ibm.quantum.billed_s == 0
    assert await lives.rows("SELECT qpu_seconds FROM charges") == [(0.0,)]


async def test_a_job_that_is_cancelled_before_it_is_sent_is_never_sent(ibm: FakeIbm, tmp_path: Path) -> None:
    lives = Lives(tmp_path, account_of(ibm, submissions_a_minute=1))
    async with ibm.quantum.running.held(ibm.quantum.running.queue_open):
        first, second = await submit(lives, 1), await submit(lives, 2)
        await lives.ask(request("POST", f"/jobs/{second}/cancel"))
        assert (await state(lives, second))["status"] == "Cancelled"
    await lives.until(ENDED)
    assert only(ibm).tags == [f"qonduit-{first}"]
    await lives.stop()


async def test_a_session_that_idles_is_closed_and_the_next_job_opens_another(ibm: FakeIbm, hasty: Lives) -> None:
    lives = hasty
    session = (await lives.ask(request("POST", "/sessions", {"mode": "dedicated", "backend": DEVICE})))["id"]
    assert not ibm.quantum.sessions, "it costs nothing until its first job"
    await submit(lives, 1, job_body(session))
    await lives.until(ENDED)
    await lives.until(CLOSED)
    await submit(lives, 2, job_body(session))
    await lives.until(ENDED)
    first, second = ibm.quantum.sessions.values()
    assert first.closed_at is not None
    assert [job.session_id for job in ibm.quantum.jobs.values()] == [first.session_id, second.session_id]
    await lives.ask(request("PATCH", f"/sessions/{session}", {"accepting_jobs": False}))
    await lives.until(CLOSED)
    assert second.closed_at is not None
    held_s = [round(one.held_s(one.closed_at or 0.0)) for one in (first, second)]
    charges = await lives.rows("SELECT mode, qpu_seconds FROM charges ORDER BY at")
    assert charges == [("dedicated", float(seconds)) for seconds in held_s]
    assert (await lives.ask(request("GET", f"/sessions/{session}")))["elapsed_time"] == sum(held_s)


async def test_a_batch_is_charged_by_job_and_its_close_is_tried_until_it_is_done(ibm: FakeIbm, lives: Lives) -> None:
    fault = Fault("PATCH", "/sessions/.*", how=How.RESET, times=3)
    ibm.faults.append(fault)
    session = (await lives.ask(request("POST", "/sessions", {"mode": "batch", "backend": DEVICE})))["id"]
    for number in range(3):
        await submit(lives, number, job_body(session))
    await lives.ask(request("PATCH", f"/sessions/{session}", {"accepting_jobs": False}))
    await lives.until(CLOSED)
    (batch,) = ibm.quantum.sessions.values()
    assert (fault.times, batch.mode, batch.closed_at is not None) == (0, "batch", True)
    assert {job.session_id for job in ibm.quantum.jobs.values()} == {batch.session_id}
    await lives.until(CHARGED)
    ((charged_s,),) = await lives.rows("SELECT SUM(qpu_seconds) FROM charges WHERE mode = 'batch'")
    assert charged_s == pytest.approx(ibm.quantum.billed_s)


async def test_a_close_that_is_refused_is_tried_again(ibm: FakeIbm, hasty: Lives) -> None:
    lives = hasty
    fault = Fault("PATCH", "/sessions/.*", status=403, times=2)
    ibm.faults.append(fault)
    session = (await lives.ask(request("POST", "/sessions", {"mode": "dedicated", "backend": DEVICE})))["id"]
    await submit(lives, 1, job_body(session))
    await lives.until(ENDED)
    await lives.ask(request("PATCH", f"/sessions/{session}", {"accepting_jobs": False}))
    await lives.until(CLOSED)
    (one,) = ibm.quantum.sessions.values()
    assert (fault.times, one.closed_at is not None) == (0, True)


async def test_a_session_that_ibm_closed_is_replaced_by_another(ibm: FakeIbm, lives: Lives) -> None:
    session = (await lives.ask(request("POST", "/sessions", {"mode": "batch", "backend": DEVICE})))["id"]
    await submit(lives, 1, job_body(session))
    await lives.until(ENDED)
    (closed,) = ibm.quantum.sessions.values()
    closed.accepting = False
    second = await submit(lives, 2, job_body(session))
    await lives.until(ENDED)
    assert (await state(lives, second))["status"] == "Completed"
    assert [one.accepting for one in ibm.quantum.sessions.values()][-1]


async def test_a_session_that_nobody_knows_is_closed_where_the_account_is_the_brokers_alone(
    ibm: FakeIbm, tmp_path: Path
) -> None:
    crn = ibm.instances[0].crn
    ibm.quantum.sessions["lost"] = UpstreamSession("lost", crn, "dedicated", DEVICE, 28_800)
    lives = Lives(tmp_path, account_of(ibm, exclusive=True))
    await lives.broker()
    async with asyncio.timeout(120), ibm.quantum.running.changed:
        await ibm.quantum.running.changed.wait_for(lambda: ibm.quantum.sessions["lost"].closed_at is not None)
    await lives.stop()


async def test_two_instances_share_what_one_may_not_take(ibm: FakeIbm, tmp_path: Path) -> None:
    accounts = [account_of(ibm, number, submissions_a_minute=1) for number in (0, 1)]
    lives = Lives(tmp_path, *accounts)
    for number in (1, 2):
        await submit(lives, number)
    await lives.until(ENDED)
    assert {job.crn for job in ibm.quantum.jobs.values()} == {instance.crn for instance in ibm.instances}
    conditions = (await lives.broker()).upstream.conditions()
    assert [one.state for one in conditions] == ["limited", "limited"]
    await lives.stop()


async def test_accounts_are_read_again_without_a_restart(ibm: FakeIbm, lives: Lives) -> None:
    """A job that runs at an account that is taken out is followed to its end; a new one goes to the new account."""
    async with ibm.quantum.running.held(ibm.quantum.running.run_open):
        await submit(lives, 1)
        await lives.until(RUNNING)
        lives.accounts[:] = [account_of(ibm, 1)]
        broker = await lives.broker()
        os.kill(os.getpid(), signal.SIGHUP)
        await broker.fleet.wait_for(ibm.instances[1].crn)
    await lives.until(ENDED)
    await submit(lives, 2)
    await lives.until(ENDED)
    assert [job.crn for job in ibm.quantum.jobs.values()] == [instance.crn for instance in ibm.instances]
    assert {job.status for job in ibm.quantum.jobs.values()} == {"Completed"}


async def test_a_wrong_token_is_said_and_a_right_one_taken(
    ibm: FakeIbm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "_START_S", 0.1)  # A start waits so long for what it will not find.
    wrong = account_of(ibm).model_copy(update={"token": account_of(ibm, 1).token})
    lives = Lives(tmp_path, wrong)
    broker = await lives.broker()
    await lives.until(lambda _: [one.state for one in broker.upstream.conditions()] == ["refused"])
    (condition,) = broker.upstream.conditions()
    assert "Correct the token of the account 'open-instance'" in condition.text
    lives.accounts[:] = [account_of(ibm)]
    broker.fleet.reload()
    await broker.fleet.found()
    await submit(lives)
    await lives.until(ENDED)
    assert only(ibm).status == "Completed"
    await lives.stop()


async def test_a_budget_that_is_used_up_refuses_before_anything_is_sent(ibm: FakeIbm, lives: Lives) -> None:
    await submit(lives, 1, qpu_budget_s=600.0)
    await lives.until(CHARGED)
    assert only(ibm).cost_s == 600, "IBM stops what would go beyond it"
    charged_s = only(ibm).charged_s
    with pytest.raises(Conflict, match=f"used {charged_s:.2f} of its {charged_s / 2:g} QPU seconds"):
        await submit(lives, 2, qpu_budget_s=charged_s / 2)
    with pytest.raises(Conflict, match="of your 1e-09 QPU seconds of 28 days"):
        await submit(lives, 3, job_id="job-2", user_qpu_budget_s=1e-9)
    assert len(ibm.quantum.jobs) == 1


async def test_doubt_begins_when_the_request_has_failed_not_when_it_was_sent(
    ibm: FakeIbm, lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A POST that fails after longer than the doubt, and a tag that is found late: still one job."""
    doubt_s = 2.0  # Longer than elsewhere: that a machine stands still for a moment must not count.
    monkeypatch.setattr(mortal_broker, "DOUBT_S", doubt_s)
    monkeypatch.setattr(submitting, "_POST_S", 2 * doubt_s)
    ibm.quantum.tag_lag_s = 2.1 * doubt_s
    ibm.faults.append(Fault("POST", "/jobs", how=How.LATE, delay_s=3 * doubt_s))
    await submit(lives)
    await lives.until(ENDED)
    assert only(ibm).status == "Completed"


async def test_a_job_at_ibm_outlasts_its_budget_and_a_restart(ibm: FakeIbm, tmp_path: Path) -> None:
    """The budget is used up by another job while this one runs: it costs all the same, so it is followed."""
    lives = Lives(tmp_path, account_of(ibm))
    async with ibm.quantum.running.held(ibm.quantum.running.run_open):
        running = await submit(lives, 1, qpu_budget_s=1e-9)
        await lives.until(RUNNING)
        now = time.time()
        await LedgerThread.run(
            (await lives.broker()).ledger,
            lambda ledger: ledger.execute(
                "INSERT INTO charges (charge_id, job_id, user, backend, mode, qpu_seconds, at)"
                " VALUES ('other', 'job-1', 'ada', 'ibmq_manila', 'job', 5, ?)",
                (now,),
            ),
        )
        (await lives.broker()).steps.dead.set()
    await lives.until(ENDED)
    assert (await state(lives, running))["status"] == "Completed"
    assert only(ibm).status == "Completed"
    await lives.until(CHARGED)
    await lives.stop()


async def test_jobs_that_are_cancelled_on_their_way_leave_their_places(ibm: FakeIbm, tmp_path: Path) -> None:
    lives = Lives(tmp_path, account_of(ibm, jobs_a_device=2))
    for number in range(0, 12, 2):
        ids = [await submit(lives, number + more) for more in range(2)]
        await asyncio.gather(*(lives.ask(request("POST", f"/jobs/{one}/cancel")) for one in ids))
    await lives.until(ENDED)
    last = await submit(lives, 100)
    await lives.until(ENDED)
    assert (await state(lives, last))["status"] == "Completed"
    await lives.stop()


async def test_two_jobs_that_find_their_session_closed_share_the_next_one(ibm: FakeIbm, lives: Lives) -> None:
    session = (await lives.ask(request("POST", "/sessions", {"mode": "dedicated", "backend": DEVICE})))["id"]
    await submit(lives, 1, job_body(session))
    await lives.until(ENDED)
    (first,) = ibm.quantum.sessions.values()
    first.accepting = False
    ibm.faults.append(Fault("POST", "/sessions", how=How.SLOW, delay_s=0.3))
    for number in (2, 3):
        await submit(lives, number, job_body(session))
    await lives.until(ENDED)
    await lives.ask(request("PATCH", f"/sessions/{session}", {"accepting_jobs": False}))
    await lives.until(CLOSED)
    _, second = ibm.quantum.sessions.values()
    assert [job.session_id for job in ibm.quantum.jobs.values()][1:] == [second.session_id] * 2
    assert second.closed_at is not None
    charges = await lives.rows("SELECT SUM(qpu_seconds) FROM charges WHERE mode = 'dedicated'")
    assert charges == [(float(sum(round(one.held_s(one.closed_at or 0.0)) for one in (first, second))),)]


async def test_a_session_that_can_not_be_opened_now_is_waited_for(ibm: FakeIbm, lives: Lives) -> None:
    session = (await lives.ask(request("POST", "/sessions", {"mode": "batch", "backend": DEVICE})))["id"]
    ibm.faults.append(Fault("POST", "/sessions", status=503, times=2))
    qpu_job_id = await submit(lives, 1, job_body(session))
    await lives.until(ENDED)
    assert (await state(lives, qpu_job_id))["status"] == "Completed"


async def test_a_dedicated_session_ends_with_its_budget(ibm: FakeIbm, lives: Lives) -> None:
    session = (await lives.ask(request("POST", "/sessions", {"mode": "dedicated", "backend": DEVICE})))["id"]
    await submit(lives, 1, job_body(session), qpu_budget_s=90.0)
    await lives.until(ENDED)
    (one,) = ibm.quantum.sessions.values()
    assert one.max_ttl_s == pytest.approx(90, abs=1)


async def test_tokens_are_changed_under_a_call(ibm: FakeIbm, lives: Lives) -> None:
    """What waits for an answer when the accounts are read again gets it, and its job goes on."""
    slow = Fault("GET", "/jobs/.*/results", how=How.SLOW, delay_s=0.5)
    ibm.faults.append(slow)
    await submit(lives)
    await asyncio.wait_for(slow.seen.wait(), 120)
    (await lives.broker()).fleet.reload()
    await lives.until(ENDED)
    assert only(ibm).status == "Completed"
    await submit(lives, 2)
    await lives.until(ENDED)


async def test_a_breaker_opens_says_so_and_closes(ibm: FakeIbm, lives: Lives) -> None:
    upstream = (await lives.broker()).upstream
    async with ibm.quantum.running.held(ibm.quantum.running.run_open):
        await submit(lives, 1)
        await lives.until(RUNNING)
        ibm.faults.append(Fault("GET", "/jobs", status=502, times=1_000_000))
        seen: list[Any] = []  # What it was then: a breaker lets a request through from time to time.

        def failing(_: Any) -> bool:
            seen[:] = upstream.conditions()
            return seen[0].state == "failing"

        await lives.until(failing)
        (condition,) = seen
        assert condition.text.endswith("in a row failed, the last one so: A fault on demand.")
        assert condition.until is not None
        ibm.faults.clear()
    await lives.until(ENDED)
    assert only(ibm).status == "Completed"
    assert [one.state for one in upstream.conditions()] == ["ok"]


async def test_a_broker_that_ran_many_jobs_remembers_none_of_them(ibm: FakeIbm, lives: Lives) -> None:
    """Its memory is flat: what it held for jobs is gone, but for what the ledger has."""
    body = b'{"program_id": "sampler", "backend": "ibmq_manila", "params": {"echo": "x"}}'

    async def run(first: int, last: int) -> int:
        for number in range(first, last):
            await submit(lives, number, body, job_id=f"job-{number % 20}")
        await lives.until(CHARGED)
        await lives.until(count("SELECT COUNT(*) = 0 FROM transitions WHERE published = 0"))
        lives.heard.transitions.clear()
        lives.heard.charges.clear()
        ibm.forget()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    await run(0, 60)
    tracemalloc.start()
    try:
        before = await run(60, 120)
        after = await run(120, 260)
    finally:
        tracemalloc.stop()
    assert after - before < 140 * 1024, "less than 1 KiB a job"
