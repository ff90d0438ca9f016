"""The scheduler's own process on a real RabbitMQ, with a gateway and a worker that only speak messages."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest
from qonduit_service_kit import messages as m
from qonduit_service_kit.bus import DEAD_LETTERS, GATEWAY_INBOX, Bus, Delivery, RawDelivery, worker_inbox
from qonduit_service_kit.messages import LeaseKind, Shape
from qonduit_service_kit.testing import PrivateBroker, new_broker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

GIB = 1024**3
WAIT_S = 120.0


def spec(job_id: str, *, attempt: int = 1, cpu: float = 1, user: str = "ada") -> m.JobSpec:
    return m.JobSpec(
        job_id=job_id,
        attempt=attempt,
        user=user,
        function_title="f",
        function_version="v",
        artifact_digest="a",
        entrypoint="main.py",
        arguments_digest="b",
        shape=Shape(int(cpu * 1000), GIB),
        time_limit_s=60.0,
        submitted_at=1.0,
        storage_ticket="t",
    )


class Actor:
    """Keeps what it received; `until` waits for a message or a state."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.received: list[object] = []
        self._news = asyncio.Condition()

    async def note(self, message: object) -> None:
        async with self._news:
            self.received.append(message)
            self._news.notify_all()

    async def until(self, met: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S), self._news:
            await self._news.wait_for(met)

    def all(self, kind: type) -> list[object]:
        return [message for message in self.received if isinstance(message, kind)]


class FakeGateway(Actor):
    """Gives terms and answers each hello with the jobs that aren't over."""

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus)
        self.term = 0
        self.jobs: dict[str, m.JobSpec] = {}
        self.running: dict[str, str] = {}

    async def start(self) -> None:
        await self.bus.consume(GATEWAY_INBOX, self._on_delivery)

    async def _on_delivery(self, delivery: Delivery) -> None:
        message = delivery.message
        if isinstance(message, m.SchedulerHello):
            await self._answer(message)
        elif isinstance(message, m.JobEvent) and message.kind is m.EventKind.FINISHED:
            self.jobs.pop(message.job_id, None)
        elif isinstance(message, m.JobEvent):
            self.running[message.job_id] = message.worker_id
        await self.note(message)

    async def _answer(self, hello: m.SchedulerHello) -> None:
        self.term += 1
        queued = tuple(job for job in self.jobs.values() if job.job_id not in self.running)
        running = tuple(
            m.RunningAttempt(job, self.running[job.job_id]) for job in self.jobs.values() if job.job_id in self.running
        )
        first = m.JobsSnapshot(hello.scheduler_id, self.term, 0, last=False, queued=queued)
        await self.bus.publish(m.SCHEDULER, first)
        await self.bus.publish(m.SCHEDULER, replace(first, page=1, last=True, queued=(), running=running))

    async def submit(self, job: m.JobSpec) -> None:
        self.jobs[job.job_id] = job
        await self.bus.publish(m.SCHEDULER, m.JobSubmitted(job))


@dataclass
class Held:
    grant: m.DriverGranted | m.ExecutorGranted
    status: m.LeaseStatus = field(init=False)

    def __post_init__(self) -> None:
        grant = self.grant
        driver = isinstance(grant, m.DriverGranted)
        self.status = m.LeaseStatus(
            grant.lease_id,
            LeaseKind.DRIVER if driver else LeaseKind.EXECUTOR,
            grant.spec.job_id if isinstance(grant, m.DriverGranted) else grant.job_id,
            grant.spec.attempt if isinstance(grant, m.DriverGranted) else grant.attempt,
            grant.spec.shape if isinstance(grant, m.DriverGranted) else grant.shape,
        )


class FakeWorker(Actor):
    """Takes each grant of a current term, reports it, and ends what is revoked."""

    def __init__(self, bus: Bus, worker_id: str, *, cpu: int = 4) -> None:
        super().__init__(bus)
        self.worker_id = worker_id
        self.capacity = Shape(cpu * 1000, 8 * GIB)
        self.term = 0
        self.sequence = 0
        self.leases: dict[str, Held] = {}
        self.refused: list[str] = []
        self.inbox = worker_inbox(worker_id)

    async def start(self) -> None:
        await self.bus.consume(self.inbox, self._on_delivery)
        await self.heartbeat()

    async def heartbeat(self) -> None:
        self.sequence += 1
        leases = tuple(held.status for held in self.leases.values())
        body = m.WorkerHeartbeat(self.worker_id, "life1", self.sequence, self.capacity, leases, term=self.term)
        await self.bus.publish(m.SCHEDULER, body)

    async def _on_delivery(self, delivery: Delivery) -> None:
        message = delivery.message
        if isinstance(message, m.SchedulerElected):
            self.term = max(self.term, message.term)
            await self.heartbeat()
        elif isinstance(message, m.DriverGranted | m.ExecutorGranted):
            await self._take(message)
        elif isinstance(message, m.LeaseRevoked):
            await self.end(message.lease_id)
        await self.note(message)

    async def _take(self, grant: m.DriverGranted | m.ExecutorGranted) -> None:
        if grant.term < self.term:
            self.refused.append(grant.lease_id)
            await self.bus.publish(m.SCHEDULER, m.LeaseEnded(self.worker_id, grant.lease_id, "old term", refused=True))
            return
        self.leases[grant.lease_id] = Held(grant)
        if isinstance(grant, m.DriverGranted):
            event = m.JobEvent(grant.spec.job_id, grant.spec.attempt, 1, 1.0, self.worker_id, m.EventKind.INITIALIZING)
            await self.bus.publish(m.GATEWAY, event)
        await self.heartbeat()

    async def end(self, lease_id: str) -> None:
        held = self.leases.pop(lease_id, None)
        if held is None:
            return
        if held.status.kind is LeaseKind.DRIVER:
            event = m.JobEvent(held.status.job_id, held.status.attempt, 2, 2.0, self.worker_id, m.EventKind.FINISHED)
            await self.bus.publish(m.GATEWAY, event)
        await self.bus.publish(m.SCHEDULER, m.LeaseEnded(self.worker_id, lease_id))

    def runs(self, job_id: str) -> bool:
        return any(held.status.job_id == job_id for held in self.leases.values())

    def lease_of(self, job_id: str) -> str:
        return next(lease_id for lease_id, held in self.leases.items() if held.status.job_id == job_id)


class SchedulerProcess:
    """`python -m qonduit_scheduler`, with short times but for those of giving somebody up."""

    def __init__(self, url: str, folder: Path, **other_times: float) -> None:
        self._ready = folder / "ready.json"
        self._log = folder / "scheduler.log"
        times = {"SETTLE_S": 0.3, "PROBE_S": 0.1, "TICK_S": 0.05, "IDLE_S": 0.2}
        # The worker here tells nothing by itself, and who stands still for a moment has lost nothing.
        times |= {"SILENCE_S": 600, "LEASE_TTL_S": 600} | other_times
        self._environment = dict(os.environ) | {
            "QONDUIT_SCHEDULER_AMQP_URL": url,
            "QONDUIT_SCHEDULER_READY_FILE": str(self._ready),
            "QONDUIT_SCHEDULER_DATA_DIR": str(folder),
            **{f"QONDUIT_SCHEDULER_{name}": str(value) for name, value in times.items()},
        }
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "qonduit_scheduler", env=self._environment, stderr=log, stdout=log
            )
        async with asyncio.timeout(WAIT_S):
            while not self._ready.exists():
                assert self._process.returncode is None, self._log.read_text()
                await asyncio.sleep(0.02)

    async def metrics(self) -> str:
        port = json.loads(self._ready.read_text())["metrics_port"]
        body: bytes = await asyncio.to_thread(lambda: urlopen(f"http://127.0.0.1:{port}/metrics").read())
        return body.decode()

    async def kill(self) -> None:
        await self._end(9)

    async def stop(self) -> int:
        return await self._end(15)

    async def _end(self, number: int) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.returncode is None:
            process.send_signal(number)
        self._ready.unlink(missing_ok=True)
        return await process.wait()


@dataclass
class Cluster:
    url: str
    folder: Path
    stack: AsyncExitStack
    gateway: FakeGateway
    worker: FakeWorker

    async def scheduler(self, name: str = "one", **times: float) -> SchedulerProcess:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        process = SchedulerProcess(self.url, folder, **times)
        self.stack.push_async_callback(process.stop)
        await process.start()
        return process

    async def submit_and_wait(self, job: m.JobSpec) -> None:
        await self.gateway.submit(job)
        await self.worker.until(lambda: self.worker.runs(job.job_id))


@asynccontextmanager
async def _bus(url: str, name: str) -> AsyncIterator[Bus]:
    bus = Bus(url, app_id=name)
    await bus.start()
    try:
        yield bus
    finally:
        await bus.stop()


@asynccontextmanager
async def cluster_on(url: str, folder: Path) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        gateway = FakeGateway(await stack.enter_async_context(_bus(url, "gateway")))
        worker = FakeWorker(await stack.enter_async_context(_bus(url, "worker")), "w1")
        await gateway.start()
        await worker.start()
        yield Cluster(url, folder, stack, gateway, worker)


@pytest.fixture
async def cluster(bus_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with cluster_on(bus_url, tmp_path) as made:
        yield made


@pytest.fixture
def own_broker() -> Iterator[PrivateBroker]:
    made = new_broker()
    yield made
    made.stop()


async def test_jobs_and_executors_are_placed_and_given_back(cluster: Cluster) -> None:
    scheduler = await cluster.scheduler()
    await cluster.submit_and_wait(spec("j1"))
    shape = Shape(1000, GIB)
    demand = m.TaskDemand("j1", 1, "w1", "ada", shape, 2, 1)
    await cluster.worker.bus.publish(m.SCHEDULER, demand)
    await cluster.worker.until(lambda: len(cluster.worker.leases) == 3)
    await cluster.gateway.submit(spec("j2", cpu=64))
    await cluster.gateway.until(lambda: bool(cluster.gateway.all(m.PlacementRefused)))
    text = await scheduler.metrics()
    assert "qonduit_scheduler_leader 1.0" in text
    assert "qonduit_scheduler_refusals_total" in text
    await cluster.worker.end(cluster.worker.lease_of("j1"))
    await cluster.worker.until(lambda: not cluster.worker.leases)
    assert await scheduler.stop() == 0


async def test_a_scheduler_killed_at_work_comes_back_with_the_same_picture(cluster: Cluster) -> None:
    scheduler = await cluster.scheduler()
    await cluster.submit_and_wait(spec("j1", cpu=3))
    await cluster.gateway.submit(spec("j2", cpu=2))
    await scheduler.kill()
    first_term = cluster.gateway.term
    await cluster.gateway.submit(spec("j3", cpu=1))
    await scheduler.start()
    await cluster.worker.until(lambda: cluster.worker.runs("j3"))
    assert not cluster.worker.runs("j2")
    await cluster.worker.end(cluster.worker.lease_of("j1"))
    await cluster.worker.until(lambda: cluster.worker.runs("j2"))
    assert cluster.worker.term > first_term
    started = [message.spec.job_id for message in cluster.worker.all(m.DriverGranted)]  # type: ignore[attr-defined]
    assert sorted(started) == ["j1", "j2", "j3"]
    assert not cluster.gateway.all(m.AttemptLost)


async def test_a_standby_takes_over_by_itself(cluster: Cluster) -> None:
    first = await cluster.scheduler("one")
    await cluster.submit_and_wait(spec("j1"))
    second = await cluster.scheduler("two")
    assert "qonduit_scheduler_leader 0.0" in await second.metrics()
    await first.kill()
    first_term = cluster.gateway.term
    await cluster.submit_and_wait(spec("j2"))
    assert cluster.worker.runs("j1")
    assert cluster.worker.term > first_term


async def test_grants_of_an_older_term_are_refused_and_come_again(cluster: Cluster) -> None:
    first = await cluster.scheduler()
    await cluster.submit_and_wait(spec("j1"))
    # A leader that the worker knows and this scheduler doesn't: what it grants now is fenced off.
    cluster.worker.term = cluster.gateway.term = 7
    await cluster.gateway.submit(spec("j2"))
    await cluster.worker.until(lambda: bool(cluster.worker.refused))
    await first.kill()
    await first.start()
    await cluster.worker.until(lambda: cluster.worker.runs("j2"))
    assert cluster.worker.term > 7


async def test_a_message_for_somebody_else_goes_to_the_dead_letters(cluster: Cluster) -> None:
    await cluster.scheduler()
    reasons: asyncio.Queue[str] = asyncio.Queue()

    async def on_dead_letter(delivery: RawDelivery) -> None:
        reasons.put_nowait(delivery.reason)

    await cluster.gateway.bus.consume_raw(DEAD_LETTERS, on_dead_letter)
    await cluster.gateway.bus.publish(m.SCHEDULER, m.ProgramEnded("j1", 1))
    assert "the scheduler takes no ProgramEnded" in await asyncio.wait_for(reasons.get(), WAIT_S)
    await cluster.submit_and_wait(spec("j1"))


async def test_a_connection_that_was_lost_for_a_moment_is_noticed_all_the_same(
    own_broker: PrivateBroker, tmp_path: Path
) -> None:
    async with cluster_on(own_broker.url, tmp_path) as cluster:
        await cluster.scheduler(TICK_S=2)  # It connects again within a part of that.
        await cluster.submit_and_wait(spec("j1"))
        hellos = len(cluster.gateway.all(m.SchedulerHello))
        close = 'rabbit_networking:close_connections(rabbit_networking:connections(), "test").'
        await asyncio.to_thread(own_broker.node.control, close)
        await cluster.gateway.until(lambda: len(cluster.gateway.all(m.SchedulerHello)) > hellos)
        await cluster.submit_and_wait(spec("j2"))
        assert cluster.worker.runs("j1")


async def test_a_broker_restart_loses_nothing(own_broker: PrivateBroker, tmp_path: Path) -> None:
    async with cluster_on(own_broker.url, tmp_path) as cluster:
        await cluster.scheduler()
        await cluster.submit_and_wait(spec("j1"))
        await asyncio.to_thread(own_broker.restart)
        await cluster.submit_and_wait(spec("j2"))
        assert cluster.worker.runs("j1")
        assert not cluster.gateway.all(m.AttemptLost)
