"""taskiq on RabbitMQ by taskiq-aio-pika: two worker processes, one task at a time each, pickle, results in Redis."""

from __future__ import annotations

import asyncio
import os
import pickle
from typing import TYPE_CHECKING, Any

from peers.system import EXECUTORS, System
from peers.worker_process import WorkerProcess
from peers.workloads import TASKS
from redis.asyncio import Redis
from taskiq.abc.formatter import TaskiqFormatter
from taskiq.message import BrokerMessage
from taskiq_aio_pika import AioPikaBroker
from taskiq_redis import RedisAsyncResultBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskiq import TaskiqMessage, TaskiqResult

_LOOK_S = 0.001
"""The client polls for results; its default of 0.2 s would be all that one sees."""


class _Pickled(TaskiqFormatter):  # type: ignore[misc]
    """Calls as pickle: what taskiq has turns them into JSON's types first, whatever its serializer."""

    def dumps(self, message: TaskiqMessage) -> BrokerMessage:
        """Return the message's bytes."""
        return BrokerMessage(
            task_id=message.task_id,
            task_name=message.task_name,
            message=pickle.dumps(message, pickle.HIGHEST_PROTOCOL),
            labels=message.labels,
        )

    def loads(self, message: bytes) -> TaskiqMessage:
        """Return the message of bytes."""
        loaded: TaskiqMessage = pickle.loads(message)  # noqa: S301 - Our own, on loopback.
        return loaded


class _PickledResults(RedisAsyncResultBackend):  # type: ignore[misc]
    """Results as pickle, for the same reason."""

    async def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
        """Store a result."""
        async with Redis(connection_pool=self.redis_pool) as redis:
            await redis.set(task_id, pickle.dumps(result, pickle.HIGHEST_PROTOCOL))

    async def get_result(self, task_id: str, with_logs: bool = False) -> TaskiqResult[Any]:  # noqa: FBT001, FBT002
        """Fetch a result that is there."""
        del with_logs
        async with Redis(connection_pool=self.redis_pool) as redis:
            result: TaskiqResult[Any] = pickle.loads(await redis.get(task_id))  # noqa: S301 - See above.
            return result


broker = AioPikaBroker(os.environ["BENCH_AMQP_URL"]).with_result_backend(_PickledResults(os.environ["BENCH_REDIS_URL"]))
broker = broker.with_formatter(_Pickled())
_TASKS: dict[Callable[..., Any], Any] = {task: broker.register_task(task, task_name=task.__name__) for task in TASKS}


class TaskiqSystem(System):
    """`.kiq()`, all sent at once, and `.wait_result()`; a shared value goes with every call."""

    def start(self) -> None:
        """Start the worker; calls wait for it in RabbitMQ."""
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(broker.startup())
        self._worker = WorkerProcess(
            "taskiq", "worker", "peers.taskiq_system:broker", "--workers", str(EXECUTORS), "--max-async-tasks", "1",
            "--max-threadpool-threads", "1", "--no-parse", "--log-level", "ERROR",
        )  # fmt: skip

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
