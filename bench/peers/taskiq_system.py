"""taskiq on RabbitMQ by taskiq-aio-pika: two worker processes, one task at a time each, pickle, results in Redis."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from taskiq.serializers import PickleSerializer
from taskiq_aio_pika import AioPikaBroker
from taskiq_redis import RedisAsyncResultBackend

from peers.protocol import EXECUTORS
from peers.worker_process import WorkerProcess
from peers.workloads import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LOOK_S = 0.001
"""The client polls for results; its default of 0.2 s would be all that one sees."""

broker = (
    AioPikaBroker(os.environ["BENCH_AMQP_URL"])
    .with_result_backend(RedisAsyncResultBackend(os.environ["BENCH_REDIS_URL"], serializer=PickleSerializer()))
    .with_serializer(PickleSerializer())
)
_TASKS: dict[Callable[..., Any], Any] = {
    task: broker.register_task(task, task_name=task.__name__) for task in TASKS
}


class TaskiqSystem:
    """`.kiq()`, all sent at once, and `.wait_result()`; a shared value goes with every call."""

    shares = False

    def start(self) -> None:
        """Start the worker; calls wait for it in RabbitMQ."""
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(broker.startup())
        self._worker = WorkerProcess(
            "taskiq", "worker", "peers.taskiq_system:broker", "--workers", str(EXECUTORS), "--max-async-tasks", "1",
            "--max-threadpool-threads", "1", "--no-parse", "--log-level", "ERROR",
        )  # fmt: skip

    def share(self, value: object) -> Any:
        """Return the value."""
        return value

    def call(self, task: Callable[..., Any], *arguments: Any) -> Any:
        """Send one call and wait."""
        return self.call_all(task, [arguments])[0]

    def call_all(self, task: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send all calls, then wait."""
        return self._loop.run_until_complete(self._call_all(_TASKS[task], calls))

    async def _call_all(self, task: Any, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        sent = await asyncio.gather(*(task.kiq(*arguments) for arguments in calls))
        results = [await each.wait_result(check_interval=_LOOK_S) for each in sent]
        for result in results:
            result.raise_for_error()
        return [result.return_value for result in results]

    def stop(self) -> None:
        """End the worker."""
        self._worker.stop()
        self._loop.run_until_complete(broker.shutdown())
        self._loop.close()


make_system = TaskiqSystem
