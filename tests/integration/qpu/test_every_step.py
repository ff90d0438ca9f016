"""The broker dies at every step of a submission, one after another: one job upstream, one bill, no step untold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from fake_ibm import FakeIbm, Instance
from mortal_broker import Lives, make_requests_steps, request
from qiskit import QuantumCircuit
from qiskit_ibm_runtime import RuntimeEncoder
from qonduit_service_kit.messages import QpuState

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

DEVICE = "ibmq_manila"
STEPS = [QpuState.QUEUED, QpuState.RUNNING, QpuState.COMPLETED]


@pytest.fixture
async def ibm(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeIbm]:
    service = FakeIbm(Instance(plan="paygo"))
    await service.start()
    for name, value in service.hosts().items():
        monkeypatch.setenv(name, value)
    make_requests_steps(monkeypatch)
    yield service
    await service.stop()


def job_body(session_id: str = "") -> bytes:
    circuit = QuantumCircuit(2, 2)
    circuit.x(0)
    circuit.measure([0, 1], [0, 1])
    document: dict[str, Any] = {"program_id": "sampler", "backend": DEVICE, "params": {"pubs": [(circuit, None, 10)]}}
    return json.dumps(document | ({"session_id": session_id} if session_id else {}), cls=RuntimeEncoder).encode()


def ended(ledger: sqlite3.Connection) -> bool:
    """Whether the job has ended, is charged, and all of it was told."""
    (done,), (left,) = ledger.execute(
        "SELECT COUNT(*) FROM qpu_jobs WHERE finished_at IS NOT NULL AND qpu_s IS NOT NULL UNION ALL"
        " SELECT (SELECT COUNT(*) FROM transitions WHERE published = 0)"
        " + (SELECT COUNT(*) FROM charges WHERE published = 0)"
    )
    return bool(done == 1 and left == 0)


def closed(ledger: sqlite3.Connection) -> bool:
    """Whether also all sessions are closed."""
    return ended(ledger) and not ledger.execute(
        "SELECT COUNT(*) FROM upstream_sessions WHERE closed_at IS NULL"
    ).fetchone()[0]  # fmt: skip


async def dying_at_each_step(
    ibm: FakeIbm, folder: Path, live: Callable[[Lives], Awaitable[None]], check: Callable[[Lives], None]
) -> int:
    """Live through it with a death at each step in turn, until one survives; return the number of deaths."""
    for last in range(1, 1000):
        ibm.forget()
        (folder / str(last)).mkdir()
        lives = Lives(ibm, folder / str(last), last)
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
