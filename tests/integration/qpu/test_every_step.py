"""The broker dies at every step of a submission, one after another: one job upstream, one bill, no step untold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mortal_broker import DEVICE, Lives, account_of, job_body, request
from qonduit_service_kit.messages import QpuState

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from fake_ibm import FakeIbm

STEPS = [QpuState.QUEUED, QpuState.RUNNING, QpuState.COMPLETED]


def ended(ledger: sqlite3.Connection) -> bool:
    """Whether the job has ended, is charged, and all of it was told."""
    (done,), (left,) = ledger.execute(
        "SELECT COUNT(*) FROM qpu_jobs WHERE finished_at IS NOT NULL AND qpu_s IS NOT NULL UNION ALL"
        " SELECT (SELECT COUNT(*) FROM transitions WHERE published = 0)"
        " + (SELECT COUNT(*) FROM charges WHERE published = 0)"
    )
    return bool(done == 1 and left == 0)


def running(ledger: sqlite3.Connection) -> bool:
    """Whether the job runs."""
    return bool(ledger.execute("SELECT COUNT(*) FROM qpu_jobs WHERE running_at IS NOT NULL").fetchone()[0])


def finished(ledger: sqlite3.Connection) -> bool:
    """Whether the job has ended."""
    return bool(ledger.execute("SELECT COUNT(*) FROM qpu_jobs WHERE finished_at IS NOT NULL").fetchone()[0])


def closed(ledger: sqlite3.Connection) -> bool:
    """Whether also all sessions are closed."""
    (left,) = ledger.execute("SELECT COUNT(*) FROM upstream_sessions WHERE closed_at IS NULL").fetchone()
    return ended(ledger) and not left


async def dying_at_each_step(
    ibm: FakeIbm,
    folder: Path,
    live: Callable[[Lives], Awaitable[None]],
    check: Callable[[Lives], None],
    of: tuple[str, ...] = ("",),
) -> int:
    """Live through it with a death at each step in turn, until one survives; return the number of deaths."""
    for last in range(1, 1000):
        ibm.forget()
        (folder / str(last)).mkdir()
        lives = Lives(folder / str(last), account_of(ibm), last=last, of=of)
        try:
            await live(lives)
        finally:
            await lives.stop()
        check(lives)
        if not lives.first.dead.is_set():
            return last - 1
    raise AssertionError("it never survives")


def told(lives: Lives) -> list[QpuState]:
    """Return the states that were told, in order, each once."""
    by_number = {step.sequence: step.state for step in lives.heard.transitions}
    return [by_number[number] for number in range(len(by_number))]


async def test_a_job(ibm: FakeIbm, tmp_path: Path) -> None:
    async def live(lives: Lives) -> None:
        answer = await lives.ask(request("POST", "/jobs", job_body()))
        await lives.until(ended)
        document = await lives.ask(request("GET", f"/jobs/{answer['id']}"))
        assert document["state"]["status"] == "Completed"
        result = await lives.ask(request("GET", f"/jobs/{answer['id']}/results"))
        assert result["__type__"] == "PrimitiveResult"

    def check(lives: Lives) -> None:
        (job,) = ibm.quantum.jobs.values()
        assert {charge.qpu_seconds for charge in lives.heard.charges} == {job.charged_s}
        assert len({charge.charge_id for charge in lives.heard.charges}) == 1
        assert told(lives) == STEPS

    deaths = await dying_at_each_step(ibm, tmp_path, live, check)
    assert deaths > 20


async def test_a_job_in_a_session(ibm: FakeIbm, tmp_path: Path) -> None:
    ibm.quantum.running.run_s = 0.1

    async def live(lives: Lives) -> None:
        session = await lives.ask(request("POST", "/sessions", {"mode": "dedicated", "backend": DEVICE}))
        await lives.ask(request("POST", "/jobs", job_body(session["id"])))
        await lives.until(finished)
        await lives.ask(request("PATCH", f"/sessions/{session['id']}", {"accepting_jobs": False}))
        await lives.until(closed)

    def check(lives: Lives) -> None:
        (job,) = ibm.quantum.jobs.values()
        used = ibm.quantum.sessions[job.session_id]
        assert all(one is used or one.activated_at is None for one in ibm.quantum.sessions.values())
        assert used.closed_at is not None
        assert told(lives) == STEPS
        assert {(charge.mode, charge.qpu_seconds) for charge in lives.heard.charges} == {
            ("dedicated", round(used.held_s(used.closed_at)))
        }
        assert len({charge.charge_id for charge in lives.heard.charges}) == 1

    assert await dying_at_each_step(ibm, tmp_path, live, check) > 30


async def test_a_job_that_is_cancelled_while_it_runs(ibm: FakeIbm, tmp_path: Path) -> None:
    async def live(lives: Lives) -> None:
        async with ibm.quantum.running.held(ibm.quantum.running.run_open):
            answer = await lives.ask(request("POST", "/jobs", job_body()))
            await lives.until(running)
            await lives.ask(request("POST", f"/jobs/{answer['id']}/cancel"))
            await lives.until(ended)

    def check(lives: Lives) -> None:
        (job,) = ibm.quantum.jobs.values()
        assert job.status == "Cancelled"
        assert {charge.qpu_seconds for charge in lives.heard.charges} == {job.charged_s}
        assert told(lives) == [QpuState.QUEUED, QpuState.RUNNING, QpuState.CANCELLED]

    assert await dying_at_each_step(ibm, tmp_path, live, check) > 20


async def test_a_private_job_whose_result_can_be_read_once(ibm: FakeIbm, tmp_path: Path) -> None:
    """Between its being read and its being in the ledger lies one step; only there a death costs the result."""
    lost: list[int] = []

    async def live(lives: Lives) -> None:
        answer = await lives.ask(request("POST", "/jobs", job_body(private=True)))
        await lives.until(ended)
        document = await lives.ask(request("GET", f"/jobs/{answer['id']}"))
        if document["state"]["status"] == "Failed":
            assert "can't be read" in document["state"]["reason"]
            lost.append(lives.first.count)
        else:
            result = await lives.ask(request("GET", f"/jobs/{answer['id']}/results"))
            assert result["__type__"] == "PrimitiveResult"

    def check(lives: Lives) -> None:
        (job,) = ibm.quantum.jobs.values()
        assert {charge.qpu_seconds for charge in lives.heard.charges} == {job.charged_s}

    await dying_at_each_step(ibm, tmp_path, live, check, of=("qpu-", "finish-"))
    assert len(lost) <= 2, "read, and about to be written"
