"""A driver's desk on a real bus: what it takes from a program, and what it bears from executors."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from qonduit_service_kit.bus import SCHEDULER_INBOX, tasks_queue
from qonduit_service_kit.messages import (
    ExecutorOutput,
    Shape,
    Stage,
    TaskDemand,
    TaskOutcome,
    TaskReplies,
    TaskReply,
    task_queue,
)
from qonduit_worker.tasks import DriverContext, TaskDesk, driver_side
from qonduit_worker.tasks.driver_side import BadTaskError, DriverCallbacks
from qonduit_worker.tasks.output import MOST_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_service_kit.bus import Bus, Delivery
    from qonduit_service_kit.testing import MakeBus

SHAPE = Shape(1000, 2**30)
PATIENCE_S = 20


class Scene:
    """One driver, its scheduler's inbox, its log and its program."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.blobs: dict[str, bytes] = {}
        self.told: list[dict[str, Any]] = []
        self.log = bytearray()
        self.log_open = asyncio.Event()
        self.demands: asyncio.Queue[TaskDemand] = asyncio.Queue()
        context = DriverContext("job", 1, "ada", "w", "driver-lease", Shape(16_000, 2**35), "ticket", "digest")
        callbacks = DriverCallbacks(self._push, lambda: Stage.NONE, lambda *_: None, self._write)
        self.desk = TaskDesk(context, bus, self, callbacks)

    async def put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    async def _push(self, name: str, **fields: Any) -> None:
        self.told.append({"push": name, **fields})

    async def _write(self, data: bytes) -> None:
        await self.log_open.wait()
        self.log += data

    async def hear(self, delivery: Delivery) -> None:
        self.demands.put_nowait(delivery.message)

    async def demand(self, unfinished: int) -> TaskDemand:
        while (told := await asyncio.wait_for(self.demands.get(), PATIENCE_S)).unfinished != unfinished:
            pass
        return told


@pytest.fixture
async def scene(make_bus: MakeBus) -> AsyncIterator[Scene]:
    made = Scene(await make_bus())
    await made.bus.consume(SCHEDULER_INBOX, made.hear)
    yield made
    made.log_open.set()
    await made.desk.close()


def task(number: int = 0, **fields: Any) -> dict[str, Any]:
    usual = {"task_id": f"t{number}", "name": "f", "cpu_millis": 1000, "mem_bytes": 2**30, "gpus": 0}
    return {**usual, "call": b"call", "call_digest": "", **fields}


async def test_ten_thousand_tasks_of_one_call_are_queued_and_told_as_one_count(scene: Scene) -> None:
    await asyncio.wait_for(scene.desk.submit(task(number) for number in range(10_000)), PATIENCE_S)
    assert await scene.bus.count(tasks_queue(task_queue("job", 1, SHAPE))) == 10_000
    assert (await scene.demand(10_000)).shape == SHAPE


@pytest.mark.parametrize(
    "fields",
    [
        {"cpu_millis": float("inf")},
        {"cpu_millis": "9" * 300},
        {"mem_bytes": 2**80},
        {"gpus": -1},
        {"call": "text", "call_digest": "x"},
        {"call": None, "call_digest": "x" * 10_000},
        {"call": None},
        {"call_digest": "0" * 64},
        {"task_id": "t" * 65},
    ],
    ids=" ".join,
)
async def test_tasks_that_make_no_sense_are_refused(scene: Scene, fields: dict[str, Any]) -> None:
    with pytest.raises(BadTaskError):
        await scene.desk.submit([task(**fields)])


async def test_a_program_cannot_fill_the_agents_memory_or_the_broker(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_side, "MOST_INLINE_BYTES", 1000)
    monkeypatch.setattr(driver_side, "MOST_SHAPES", 3)
    monkeypatch.setattr(driver_side, "MOST_UNFINISHED", 6)
    for number in range(3):
        await scene.desk.submit([task(number, call=bytes([number]) * 600, cpu_millis=1000 + number)])
    assert len(scene.blobs) == 2, "what is beyond the bound lies in storage"
    with pytest.raises(BadTaskError, match="different targets"):
        await scene.desk.submit([task(4, cpu_millis=2000)])
    with pytest.raises(BadTaskError, match="unfinished"):
        await scene.desk.submit([task(number) for number in range(10, 14)])


async def test_a_log_that_takes_nothing_holds_up_no_value(scene: Scene) -> None:
    await scene.desk.submit([task()])
    chunk = bytes(32 * 1024)
    for sequence in range(1, MOST_BYTES // len(chunk) + 100):
        await asyncio.wait_for(scene.desk.handle(ExecutorOutput("job", 1, "l", sequence, chunk)), PATIENCE_S)
    reply = TaskReply("t0", 1, TaskOutcome.OK, value=b"v")
    await asyncio.wait_for(scene.desk.handle(TaskReplies("job", 1, "l", (reply,))), PATIENCE_S)
    assert scene.told[-1]["value"] == b"v"
    scene.log_open.set()
    await scene.desk.close()
    assert len(scene.log) <= MOST_BYTES + 1000
    assert b"bytes that tasks printed are missing" in scene.log
