"""A broker in the test's own process, on the fake of IBM's service, that can be made to die at any step.

A step is a transaction of the ledger, a request to the provider, or a message, each before and after it. From the step
at which it dies on, it does nothing that anybody else could see; then another one is started on the same ledger.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar, cast

from prometheus_client import CollectorRegistry
from qiskit import QuantumCircuit
from qiskit_ibm_runtime import RuntimeEncoder
from qonduit_qpu_broker.api.backends import BackendsApi
from qonduit_qpu_broker.api.jobs import JobsApi
from qonduit_qpu_broker.api.operator import OperatorApi
from qonduit_qpu_broker.api.router import Router
from qonduit_qpu_broker.api.sessions import SessionsApi
from qonduit_qpu_broker.charging import ChargeBook
from qonduit_qpu_broker.dispatcher import Dispatcher
from qonduit_qpu_broker.ibm import rest
from qonduit_qpu_broker.ibm.accounts import Account
from qonduit_qpu_broker.ibm.fleet import Fleet
from qonduit_qpu_broker.ibm.upstream import IbmUpstream
from qonduit_qpu_broker.ledger.thread import LedgerThread
from qonduit_qpu_broker.metrics import BrokerMetrics
from qonduit_qpu_broker.outbox import Outbox
from qonduit_service_kit.lifecycle import Background
from qonduit_service_kit.messages import Address, QpuCharged, QpuRequest, QpuTransition

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pytest
    from fake_ibm import FakeIbm, UpstreamJob
    from qonduit_qpu_broker.api.answer import Answer
    from qonduit_qpu_broker.payloads import Payloads

T = TypeVar("T")
DEVICE = "ibmq_manila"
HERE = Address("qonduit.workers", "w1")
DOUBT_S = 0.2
_LIFE: ContextVar[Steps] = ContextVar("life")
"""Whose steps those of a coroutine are: tasks have it from who started them."""


class Died(BaseException):
    """The broker is dead."""


class Steps:
    """Counts the steps of one broker, and ends its life at one of them.

    With `of`, only those are counted that tasks with such names take: what others do in between is not.
    """

    def __init__(self, last: int | None = None, of: tuple[str, ...] = ("",)) -> None:
        self.count = 0
        self.dead = asyncio.Event()
        self._last = last
        self._of = of

    def step(self) -> None:
        """Pass one step; Died."""
        task = asyncio.current_task()
        if task is not None and task.get_name().startswith(self._of):
            self.count += 1
            if self.count == self._last:
                self.dead.set()
        if self.dead.is_set():
            raise Died


class MortalLedger(LedgerThread):
    """A ledger whose transactions are steps."""

    def __init__(self, path: Path, steps: Steps) -> None:
        super().__init__(path)
        self._steps = steps

    async def start(self) -> None:
        """Open it; the system outlives these deaths, so that nobody need wait for the disk."""
        await super().start()
        if self._connection is not None:
            relax = "PRAGMA synchronous = OFF"
            await asyncio.get_running_loop().run_in_executor(self._executor, self._connection.execute, relax)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a transaction."""
        self._steps.step()
        result = await super().run(work)
        self._steps.step()
        return result


class Heard:
    """A bus on which everybody listens; outlives the broker."""

    def __init__(self) -> None:
        self.transitions: list[QpuTransition] = []
        self.charges: list[QpuCharged] = []
        self.changed = asyncio.Event()

    def on(self, steps: Steps) -> _Line:
        """Return the end of it that one broker has."""
        return _Line(self, steps)


class _Line:
    def __init__(self, heard: Heard, steps: Steps) -> None:
        self._heard = heard
        self._steps = steps

    async def publish(self, _to: Address, body: object, **_options: object) -> None:
        """Hear a message."""
        self._steps.step()
        if isinstance(body, QpuTransition):
            self._heard.transitions.append(body)
        elif isinstance(body, QpuCharged):
            self._heard.charges.append(body)
        self._heard.changed.set()
        self._steps.step()


class MortalBroker:
    """One life of a broker: all its parts but the inbox and storage."""

    def __init__(
        self, read: Callable[[], Sequence[Account]], ledger: Path, heard: Heard, steps: Steps, *, session_idle_s: float
    ) -> None:
        self.steps = steps
        self.ledger = MortalLedger(ledger, steps)
        outbox = Outbox(self.ledger, heard.on(steps))
        self.metrics = BrokerMetrics(CollectorRegistry())
        book = ChargeBook(self.ledger, outbox, self.metrics)
        wake = asyncio.Event()
        self.fleet = Fleet(read, self.ledger, wake.set)
        self.upstream = IbmUpstream(
            self.fleet, self.ledger, book, poll_s=0.02, doubt_s=DOUBT_S, results_s=600.0, session_idle_s=session_idle_s
        )
        self.dispatcher = Dispatcher(
            self.ledger,
            self.upstream,
            payloads=cast("Payloads", None),
            outbox=outbox,
            book=book,
            metrics=self.metrics,
            wake=wake,
            queue_delay_s=0.0,
            max_body_bytes=1 << 20,
        )
        backends = BackendsApi(self.upstream, cast("Payloads", None), self.dispatcher.queue_length)
        jobs = JobsApi(
            ledger=self.ledger,
            payloads=cast("Payloads", None),
            dispatcher=self.dispatcher,
            outbox=outbox,
            backends=backends,
            metrics=self.metrics,
            programs=self.upstream.programs,
            max_body_bytes=1 << 20,
        )
        sessions = SessionsApi(self.ledger, self.dispatcher, backends, self.upstream, 28_800)
        operator = OperatorApi(
            self.ledger,
            self.upstream,
            self.dispatcher.queue_length,
            self.dispatcher.place,
            jobs=jobs,
            sessions_api=sessions,
        )
        self._router = Router(backends, jobs, sessions, operator)
        self._parts = (
            self.ledger,
            book,
            self.upstream,
            Background(outbox.run),
            self.dispatcher,
            Background(self.dispatcher.run),
        )

    async def start(self) -> None:
        """Start all parts; Died."""
        _LIFE.set(self.steps)
        for part in self._parts:
            await part.start()

    async def stop(self) -> None:
        """Clear away what is left."""
        for part in reversed(self._parts):
            with suppress(Died):
                await part.stop()

    async def answer(self, request: QpuRequest) -> Answer:
        """Answer one request; Died."""
        _LIFE.set(self.steps)
        return await self._router.answer(request)


def account_of(ibm: FakeIbm, number: int = 0, **more: Any) -> Account:
    """Return an account for one instance of the fake service."""
    instance = ibm.instances[number]
    key = next(iter(instance.api_keys))
    options: dict[str, Any] = {"submissions_a_minute": 1000, "instances": (instance.crn,)}
    return Account(name=instance.name, token=key, url=ibm.url, **(options | more))


class Lives:
    """A broker that is started again when it has died; what asks it asks again, as an endpoint does.

    Attributes:
        accounts: Those that it uses; a change takes `reload`.
    """

    def __init__(
        self,
        folder: Path,
        *accounts: Account,
        last: int | None = None,
        of: tuple[str, ...] = ("",),
        session_idle_s: float = 60.0,
    ) -> None:
        self.accounts = list(accounts)
        self.heard = Heard()
        self.first = Steps(last, of)
        self._folder = folder
        self._session_idle_s = session_idle_s
        self._broker: MortalBroker | None = None
        self._changing = asyncio.Lock()

    async def broker(self) -> MortalBroker:
        """Return the one that lives."""
        async with self._changing:
            while self._broker is None or self._broker.steps.dead.is_set():
                before, steps = self._broker, Steps() if self._broker is not None else self.first
                if before is not None:
                    await before.stop()
                self._broker = MortalBroker(
                    lambda: self.accounts,
                    self._folder / "ledger.sqlite3",
                    self.heard,
                    steps,
                    session_idle_s=self._session_idle_s,
                )
                with suppress(Died):
                    await self._broker.start()
        return self._broker

    async def ask(self, request: QpuRequest) -> dict[str, Any]:
        """Ask until there is an answer."""
        while True:
            broker = await self.broker()
            with suppress(Died):
                answer = await broker.answer(request)
                return dict(json.loads(answer.body)) if answer.body else {}

    async def until(self, condition: Callable[[sqlite3.Connection], bool]) -> None:
        """Return once something holds in the ledger, whoever lives by then."""
        async with asyncio.timeout(120):
            while True:
                broker = await self.broker()
                with suppress(Died):
                    # Not one of the broker's own steps.
                    if await LedgerThread.run(broker.ledger, condition):
                        return
                self.heard.changed.clear()
                with suppress(TimeoutError):
                    # Not all that becomes true is told; what is told is looked at at once.
                    await asyncio.wait_for(self.heard.changed.wait(), 0.05)

    async def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the ledger."""
        ledger = (await self.broker()).ledger
        return await LedgerThread.run(ledger, lambda open_: [tuple(row) for row in open_.execute(statement)])

    async def stop(self) -> None:
        """End the last one."""
        if self._broker is not None:
            await self._broker.stop()


def job_body(session_id: str = "", **more: Any) -> bytes:
    """Return what a program posts for a small job."""
    circuit = QuantumCircuit(2, 2)
    circuit.x(0)
    circuit.measure([0, 1], [0, 1])
    document: dict[str, Any] = {"program_id": "sampler", "backend": DEVICE, "params": {"pubs": [(circuit, None, 10)]}}
    if session_id:
        document["session_id"] = session_id
    return json.dumps(document | more, cls=RuntimeEncoder).encode()


def request(
    method: str, path: str, document: object = None, *, number: int = 1, job_id: str = "job-1", **more: Any
) -> QpuRequest:
    """Return a program's request."""
    body = None if document is None else json.dumps(document).encode() if not isinstance(document, bytes) else document
    return QpuRequest(
        request_id=f"{method} {path} {number}",
        reply_to=HERE,
        user="ada",
        job_id=job_id,
        attempt=1,
        method=method,
        path=path,
        api_version="2026-04-15",
        call_number=number,
        caller="driver",
        body=body,
        **more,
    )


def only(ibm: FakeIbm) -> UpstreamJob:
    """Return the one job that is there."""
    (job,) = ibm.quantum.jobs.values()
    return job


def count(statement: str) -> Callable[[Any], bool]:
    """Return what tells whether a count in the ledger is not zero."""
    return lambda ledger: bool(ledger.execute(statement).fetchone()[0])


ENDED = count("SELECT MIN(finished_at IS NOT NULL) FROM qpu_jobs")
CHARGED = count("SELECT MIN(qpu_s IS NOT NULL) FROM qpu_jobs")
RUNNING = count("SELECT COUNT(*) FROM qpu_jobs WHERE running_at IS NOT NULL")
CLOSED = count("SELECT MIN(closed_at IS NOT NULL) FROM upstream_sessions")


def make_requests_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make requests to the provider steps of the broker that sends them."""
    send = rest.Rest.call

    async def call(self: rest.Rest, *args: Any, **options: Any) -> rest.Reply:
        steps = _LIFE.get()
        steps.step()
        reply = await send(self, *args, **options)
        steps.step()
        return reply

    monkeypatch.setattr(rest.Rest, "call", call)
