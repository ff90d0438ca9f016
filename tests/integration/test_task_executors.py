"""An executor's desk on a real bus: whatever becomes of its process, the driver's agent hears of each task it took."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from qonduit_service_kit.bus import tasks_queue, worker_inbox
from qonduit_service_kit.messages import (
    ExecutorGranted,
    ExecutorLost,
    Shape,
    Stage,
    TaskBatch,
    TaskCall,
    TaskOutcome,
    TaskReplies,
    TasksTaken,
    task_queue,
)
from qonduit_worker.sandbox import Exit, Usage
from qonduit_worker.tasks import ExecutorDesk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_service_kit.bus import Bus, Delivery
    from qonduit_service_kit.testing import MakeBus

SHAPE = Shape(1000, 64 * 1024**2)
GRANT = ExecutorGranted(1, "lease", "job", 1, "ada", SHAPE, "driver-worker", "ticket")
KILLED = Exit(exit_code=None, signal=9, oom_killed=False, cpu_seconds=0, peak_mem_bytes=0, wall_seconds=0)
DONE = Exit(exit_code=0, signal=None, oom_killed=False, cpu_seconds=0, peak_mem_bytes=0, wall_seconds=0)
PATIENCE_S = 10


class Process:
    """An executor's process, played by the test."""

    def __init__(self) -> None:
        self.output = asyncio.StreamReader()
        self.connected = False
        self.told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._end: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    async def push(self, name: str, **fields: Any) -> None:
        if not self.connected:
            raise ConnectionResetError("the executor has not connected")
        self.told.put_nowait({"push": name, **fields})

    def usage(self) -> Usage:
        return Usage(0, 0, 0)

    async def wait(self) -> Exit:
        return await asyncio.shield(self._end)

    def kill(self) -> None:
        self.end(KILLED)

    def end(self, how: Exit) -> None:
        if not self._end.done():
            self._end.set_result(how)
            self.output.feed_eof()


class Blobs:
    """Storage that is away."""

    async def put(self, data: bytes) -> str:
        raise OSError(f"storage does not take {len(data)} bytes")


class Scene:
    """One executor, the queue it consumes, and what its driver's agent is told."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.process = Process()
        self.desk = ExecutorDesk(GRANT, "w", bus, Blobs(), self.process)
        self.heard: asyncio.Queue[object] = asyncio.Queue()
        self.running: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        async def hear(delivery: Delivery) -> None:
            self.heard.put_nowait(delivery.message)

        await self.bus.consume(worker_inbox("driver-worker"), hear)
        await self.bus.declare(tasks_queue(task_queue("job", 1, SHAPE)))
        self.running = asyncio.create_task(self.desk.run())

    async def submit(self, task_id: str) -> None:
        call = TaskCall(task_id, 1, "f", Stage.NONE, b"call")
        await self.bus.publish(task_queue("job", 1, SHAPE), TaskBatch("job", 1, (call,)), persistent=False)

    def connect(self) -> None:
        self.process.connected = True
        self.desk.ready()

    async def hears(self, kind: type) -> Any:
        while not isinstance(message := await asyncio.wait_for(self.heard.get(), PATIENCE_S), kind):
            pass
        return message

    async def ended(self) -> None:
        assert self.running is not None
        await asyncio.wait_for(self.running, PATIENCE_S)


@pytest.fixture
async def scene(make_bus: MakeBus) -> AsyncIterator[Scene]:
    made = Scene(await make_bus())
    await made.begin()
    yield made
    made.process.kill()
    await made.ended()


async def test_a_process_that_dies_as_it_starts_ends_its_lease_and_its_task(scene: Scene) -> None:
    await scene.submit("t")
    await scene.hears(TasksTaken)
    scene.process.kill()
    (reply,) = (await scene.hears(TaskReplies)).replies
    assert (reply.task_id, reply.outcome) == ("t", TaskOutcome.EXECUTOR_DIED)
    await scene.ended()


async def test_a_lease_that_is_revoked_before_its_process_is_ready_ends(scene: Scene) -> None:
    await scene.desk.revoke(now=False)
    await scene.ended()


async def test_a_process_that_does_not_end_when_told_is_killed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qonduit_worker.tasks.executor_side.END_S", 0.05)
    scene.connect()
    await scene.desk.revoke(now=False)
    await scene.ended()
    assert (await scene.process.told.get())["push"] == "executor_end"


async def test_a_revoked_executor_ends_after_the_task_in_hand(scene: Scene) -> None:
    scene.connect()
    await scene.submit("t")
    assert (await scene.process.told.get())["push"] == "task_run"
    revoking = asyncio.create_task(scene.desk.revoke(now=False))
    await scene.submit("another")
    await scene.desk.on_result({"task_id": "t", "attempt": 1, "outcome": "OK", "value": b"v"})
    (reply,) = (await scene.hears(TaskReplies)).replies
    assert reply.value == b"v"
    assert (await scene.process.told.get())["push"] == "executor_end"
    scene.process.end(DONE)
    await revoking
    await scene.ended()
    assert await scene.bus.count(tasks_queue(task_queue("job", 1, SHAPE))) == 1


async def test_a_value_that_cannot_be_stored_is_no_task_without_an_end(scene: Scene) -> None:
    scene.connect()
    await scene.submit("t")
    await scene.process.told.get()
    large = b"v" * 100_000
    await scene.desk.on_result({"task_id": "t", "attempt": 1, "outcome": "OK", "value": large})
    lost = await scene.hears(ExecutorLost)
    assert (lost.job_id, lost.attempt, lost.lease_id) == ("job", 1, "lease")
    await scene.ended()


async def test_an_executor_whose_task_ends_as_it_gives_up_its_subscription_takes_tasks_again(scene: Scene) -> None:
    scene.connect()
    await scene.submit("one")
    await scene.process.told.get()
    await scene.desk.on_result({"task_id": "one", "attempt": 1, "outcome": "OK", "value": b""})
    await scene.hears(TaskReplies)
    await scene.desk._pause_while_busy()  # As it is begun by a delivery that had waited for the task in hand.
    await scene.submit("two")
    told = await asyncio.wait_for(scene.process.told.get(), PATIENCE_S)
    assert told["task_id"] == "two"
