"""Celery on RabbitMQ: a prefork worker of two processes, pickle, results by RPC over RabbitMQ."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from celery import Celery
from peers.system import EXECUTORS, System
from peers.worker_process import WorkerProcess
from peers.workloads import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

app = Celery("bench", broker=os.environ["BENCH_AMQP_URL"], backend="rpc://")
app.conf.update(
    task_serializer="pickle",
    result_serializer="pickle",
    accept_content=["pickle"],
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)
_TASKS: dict[Callable[..., Any], Any] = {task: app.task(name=task.__name__)(task) for task in TASKS}


class CelerySystem(System):
    """`.delay()` and `.get()`; a shared value goes with every call."""

    def start(self) -> None:
        """Start the worker; calls wait for it in RabbitMQ."""
        self._worker = WorkerProcess(
            "celery", "--app", "peers.celery_system", "worker", "--pool", "prefork", "--concurrency", str(EXECUTORS),
            "--loglevel", "ERROR", "--without-gossip", "--without-mingle",
            C_FORCE_ROOT="true",  # Else it refuses to run pickled tasks where the benchmark is run by root.
        )  # fmt: skip

    def call(self, task: Callable[..., Any], *arguments: Any) -> Any:
        """Send one call and wait."""
        return _TASKS[task].delay(*arguments).get()

    def call_all(self, task: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send all calls, then wait."""
        sent = [_TASKS[task].delay(*arguments) for arguments in calls]
        return [result.get() for result in sent]

    def stop(self) -> None:
        """End the worker."""
        self._worker.stop()
        app.close()


make_system = CelerySystem
