"""The two desks of the task layer on a real bus, with processes and programs played by the test."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from qonduit_service_kit.bus import GATEWAY_INBOX, SCHEDULER_INBOX, tasks_queue, worker_inbox
from qonduit_service_kit.messages import (
    ExecutorGranted,
    PackedTasksPage,
    Shape,
    Stage,
    TaskBatch,
    TaskCall,
    TaskDemand,
    TaskFunction,
    TaskOutcome,
    TaskReplies,
    TaskReply,
    task_queue,
    worker,
)
from qonduit_service_kit.task_pages import unpacked
from qonduit_worker.sandbox import Exit, Usage
from qonduit_worker.tasks import DriverCallbacks, DriverContext, ExecutorDesk, Surroundings, TaskDesk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from qonduit_service_kit.bus import Bus, Delivery
    from qonduit_service_kit.messages import TaskRecord
    from qonduit_worker.tasks import Give

Found = TypeVar("Found")

SHAPE = Shape(1000, 64 * 1024**2)
QUEUE = tasks_queue(task_queue("job", 1, SHAPE))
KILLED = Exit(exit_code=None, signal=9, oom_killed=False, cpu_seconds=0, peak_mem_bytes=0, wall_seconds=0)
DONE = Exit(exit_code=0, signal=None, oom_killed=False, cpu_seconds=0, peak_mem_bytes=0, wall_seconds=0)
PATIENCE_S = 120
DRIVER_WORKER = "driver-worker"


class Heard:
    """What somebody was told, in order; tests wait for it."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._news = asyncio.Condition()
        self._telling: set[asyncio.Task[None]] = set()

    def add(self, message: object) -> None:
        self.all.append(message)
        telling = asyncio.create_task(self._tell())
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def hear(self, delivery: Delivery) -> None:
        self.add(delivery.message)

    def of(self, kind: type[Found]) -> list[Found]:
        return [message for message in self.all if isinstance(message, kind)]

    async def until(self, look: Callable[[], Found | None], what: str = "something") -> Found:
        """Wait until `look` returns something true, and return it."""
        found: list[Found] = []

        def seen() -> bool:
            value = look()
            if value:
                found.append(value)
            return bool(value)

        async with self._news:
            try:
                await asyncio.wait_for(self._news.wait_for(seen), PATIENCE_S)
            except TimeoutError:
                raise AssertionError(f"{what} did not come; there was {self.all[-20:]}") from None
        return found[-1]

    async def next(self, kind: type[Found], number: int = 0) -> Found:
        """Wait for the first message of a kind, or the one after so many others."""
        return (await self.until(lambda: self.of(kind)[number:], kind.__name__))[0]


# --- An executor -------------------------------------------------------------------------------


class Process:
    """An executor's process, played by the test."""

    def __init__(self) -> None:
        self.output = asyncio.StreamReader()
        self.connected = False
        self.told = Heard()
        self.used = Usage(0.0, 0, 0)
        self.on_push: Callable[[str, dict[str, Any]], None] | None = None
        self._end: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    def push(self, name: str, **fields: Any) -> None:
        if not self.connected:
            raise ConnectionResetError("the executor has not connected")
        self.told.add((name, fields))
        if self.on_push is not None:
            self.on_push(name, fields)

    async def is_told(self, name: str, number: int = 0) -> dict[str, Any]:
        """Wait until it was told something, or told it once more after so many times."""
        told = await self.told.until(lambda: [fields for word, fields in self.told.all if word == name][number:], name)
        fields: dict[str, Any] = told[0]
        return fields

    def usage(self) -> Usage:
        return self.used

    async def wait(self) -> Exit:
        return await asyncio.shield(self._end)

    def kill(self) -> None:
        self.end(KILLED)

    @property
    def ended(self) -> bool:
        return self._end.done()

    def end(self, how: Exit) -> None:
        if not self._end.done():
            self._end.set_result(how)
            self.output.feed_eof()


class ExecutorScene:
    """One executor, the queue it consumes, and what its driver's agent is told."""

    def __init__(self, bus: Bus, lease_id: str = "lease") -> None:
        self.bus = bus
        self.lease_id = lease_id
        self.process = Process()
        grant = ExecutorGranted(1, lease_id, "job", 1, "ada", SHAPE, DRIVER_WORKER, "ticket")
        self.desk = ExecutorDesk(grant, Surroundings("w", bus, self.post), self.process)
        self.heard = Heard()
        self.running: asyncio.Task[None] | None = None
        self._batches = 0

    async def post(self, worker_id: str, message: object) -> None:
        await self.bus.publish(worker(worker_id), message)

    async def begin(self) -> None:
        await self.bus.consume(worker_inbox(DRIVER_WORKER), self.heard.hear)
        await self.bus.declare(QUEUE)
        self.run()

    def run(self) -> None:
        self.running = asyncio.create_task(self.desk.run())

    def batch(self, *task_ids: str, expected_s: float = 0.0, **fields: Any) -> TaskBatch:
        """Return the next batch."""
        self._batches += 1
        function = TaskFunction("f", "f", SHAPE, **{"code": b"code", **fields})
        calls = tuple(TaskCall(task_id, 1, number, 0, b"call") for number, task_id in enumerate(task_ids))
        return TaskBatch("job", 1, self._batches, (function,), calls, expected_s)

    async def submit(self, *task_ids: str, expected_s: float = 0.0, **fields: Any) -> None:
        """Put a batch into the queue."""
        batch = self.batch(*task_ids, expected_s=expected_s, **fields)
        await self.bus.publish(QUEUE.address, batch, persistent=False)

    def connect(self) -> None:
        self.process.connected = True
        self.desk.ready()

    def result(self, task_id: str, outcome: str = "OK", *, attempt: int = 1, run_s: float = 0.0) -> None:
        """Have the process say how a task ended that burned CPU all the time."""
        row = [task_id, attempt, outcome, f"value of {task_id}".encode(), "", "", run_s, run_s, 0.0]
        self.desk.on_result({"result": row})

    def answer(self, fields: dict[str, Any], outcome: str = "OK") -> None:
        """Have the process end all that it was given by a push."""
        for row in fields["tasks"]:
            self.result(row[0], outcome, attempt=row[1])

    @property
    def replies(self) -> list[TaskReply]:
        return [reply for message in self.heard.of(TaskReplies) for reply in message.replies]

    async def answers(self, count: int) -> dict[str, TaskOutcome]:
        """Wait until so many tasks are answered for, and say how; each of them once."""
        replies = await self.heard.until(
            lambda: self.replies if len(self.replies) >= count else None, f"{count} replies"
        )
        ids = [reply.task_id for reply in replies]
        assert len(ids) == len(set(ids)) == count
        return {reply.task_id: reply.outcome for reply in replies}

    async def left(self, batches: int) -> None:
        """Wait until so many batches lie in the queue: RabbitMQ puts back what came back in its own time."""
        async with asyncio.timeout(PATIENCE_S):
            while await self.bus.count(QUEUE) != batches:  # noqa: ASYNC110 - RabbitMQ tells nobody.
                await asyncio.sleep(0.02)

    async def ended(self) -> None:
        assert self.running is not None
        await asyncio.wait_for(self.running, PATIENCE_S)


# --- A driver ----------------------------------------------------------------------------------


@dataclass
class DriverScene:
    """One driver: its program, its log, the inboxes of scheduler and gateway, and the queue of its tasks."""

    bus: Bus
    told: Heard = field(default_factory=Heard)
    """What its program is told: (name, fields)."""
    scheduler: Heard = field(default_factory=Heard)
    gateway: Heard = field(default_factory=Heard)
    workers: Heard = field(default_factory=Heard)
    """What workers' agents are told: (worker id, message)."""
    batches: Heard = field(default_factory=Heard)
    """What was taken from the queue by `take_all`."""
    kept: dict[str, bytes] = field(default_factory=dict)
    released: list[str] = field(default_factory=list)
    booked: list[tuple[Stage, float, int]] = field(default_factory=list)
    idle: Give | None = None
    """Gives a batch to an executor on the driver's own worker that has nothing to do."""
    log: bytearray = field(default_factory=bytearray)
    log_open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._limit = Shape(16_000, 2**35)
        context = DriverContext("job", 1, "ada", "w", "driver-lease", self._limit, "ticket", "digest")
        callbacks = DriverCallbacks(
            push=lambda name, **fields: self.told.add((name, fields)),
            unsent=lambda: 0,
            stage=lambda: Stage.MAPPING,
            book=lambda *booked: self.booked.append(booked),
            idle_executor=lambda *_: self.idle,
            keep=self._keep,
            release=self.released.append,
            write_log=self._write,
            note_log=self._note,
        )
        self.desk = TaskDesk(context, self.bus, self._post, callbacks)

    async def begin(self) -> None:
        await self.bus.consume(SCHEDULER_INBOX, self.scheduler.hear)
        await self.bus.consume(GATEWAY_INBOX, self.gateway.hear)

    async def _post(self, worker_id: str, message: object) -> None:
        self.workers.add((worker_id, message))

    async def _keep(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self.kept[digest] = data
        return digest

    async def _write(self, data: bytes) -> None:
        await self.log_open.wait()
        self.log += data

    async def _note(self, text: str) -> None:
        await self._write(f"[qonduit] {text}\n".encode())

    # --- The program's part --------------------------------------------------------------------

    def define(self, function_id: str = "f", **fields: Any) -> None:
        usual = {"name": "f", "cpu_millis": SHAPE.cpu_millis, "mem_bytes": SHAPE.mem_bytes, "gpus": 0}
        self.desk.define({"function_id": function_id, **usual, "code": b"code", "code_digest": "", **fields})

    def submit(self, *task_ids: str, function: str = "f", call: bytes = b"call", inputs: tuple[str, ...] = ()) -> Any:
        """Submit tasks as a program does; returns what the desk returns: what to wait for, or None."""
        rows = [[task_id, call, "", [[one, None, ""] for one in inputs], []] for task_id in task_ids]
        return self.desk.submit({"function": function, "tasks": rows})

    @property
    def done(self) -> dict[str, list[Any]]:
        """How tasks ended, as the program was told; each once."""
        rows = [row for name, fields in self.told.all if name == "tasks_done" for row in fields["tasks"]]
        assert len(rows) == len({row[0] for row in rows})
        return {row[0]: row for row in rows}

    async def is_done(self, *task_ids: str) -> dict[str, list[Any]]:
        return await self.told.until(lambda: self.done if self.done.keys() >= set(task_ids) else None, f"{task_ids}")

    # --- Executors' part -----------------------------------------------------------------------

    async def take_all(self) -> None:
        """Take whatever comes into the queue, as executors do; `batches` has it."""
        await self.bus.consume(QUEUE, self.batches.hear)

    @property
    def taken(self) -> list[TaskCall]:
        return [call for batch in self.batches.of(TaskBatch) for call in batch.tasks]

    async def takes(self, count: int) -> list[TaskCall]:
        """Wait until so many calls have been taken from the queue in all."""
        return await self.batches.until(lambda: self.taken if len(self.taken) >= count else None, f"{count} calls")

    async def takes_one(self, task_id: str) -> TaskCall:
        """Wait until a task has been taken from the queue."""
        return await self.batches.until(
            lambda: next((call for call in self.taken if call.task_id == task_id), None), task_id
        )

    def reply(self, *replies: TaskReply, lease: str = "lease") -> None:
        self.desk.handle(TaskReplies("job", 1, lease, replies))

    def ends(self, *task_ids: str, lease: str = "lease", attempt: int = 1) -> None:
        """Have an executor say that tasks have ended well."""
        said = [TaskReply(one, attempt, TaskOutcome.OK, value=b"value of " + one.encode()) for one in task_ids]
        self.reply(*said, lease=lease)

    async def posted(self, count: int = 1) -> list[tuple[str, Any]]:
        """Wait until so many messages went to workers."""
        return await self.workers.until(lambda: self.workers.all if len(self.workers.all) >= count else None)

    async def demand(self, unfinished: int) -> TaskDemand:
        """Wait until the scheduler was told such a demand."""
        return await self.scheduler.until(
            lambda: next((one for one in self.scheduler.of(TaskDemand) if one.unfinished == unfinished), None),
            f"a demand of {unfinished}",
        )


@asynccontextmanager
async def driver_scene(bus: Bus) -> AsyncIterator[DriverScene]:
    """Begin a driver that knows the function f, and end it."""
    made = DriverScene(bus)
    await made.begin()
    made.define()
    yield made
    made.log_open.set()
    await made.desk.close()


async def settled(scene: DriverScene) -> dict[int, TaskRecord]:
    """End the attempt; return what the gateway was told of each task at last, by number."""
    await scene.desk.settle()

    def final() -> dict[int, TaskRecord]:
        pages = (unpacked(page.packed) for page in scene.gateway.of(PackedTasksPage))
        records = max(pages, key=lambda page: sum(record.state.final for record in page), default=())
        return {record.number: record for record in records} if all(one.state.final for one in records) else {}

    return await scene.gateway.until(final, "the last of each task")


@asynccontextmanager
async def executor_scene(bus: Bus) -> AsyncIterator[ExecutorScene]:
    """Begin an executor, and end it."""
    made = ExecutorScene(bus)
    await made.begin()
    yield made
    made.process.kill()
    await made.ended()


async def given(scene: ExecutorScene, *task_ids: str, **fields: Any) -> None:
    """Have the process be given a batch."""
    scene.connect()
    await scene.submit(*task_ids, **fields)
    told = await scene.process.is_told("tasks_run")
    assert [row[0] for row in told["tasks"]] == list(task_ids)
