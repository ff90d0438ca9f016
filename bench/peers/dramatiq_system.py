"""Dramatiq on RabbitMQ: two worker processes of one thread, pickle, results in Redis (it has none over RabbitMQ)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import dramatiq
import redis
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.encoder import PickleEncoder
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from peers.system import EXECUTORS, System
from peers.worker_process import WorkerProcess
from peers.workloads import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PATIENCE_MS = 3_600_000

broker = RabbitmqBroker(url=os.environ["BENCH_AMQP_URL"])
# Of its own accord the client of Redis gives up a wait after 5 s, and a first batch of circuits takes longer.
_results = redis.Redis.from_url(os.environ["BENCH_REDIS_URL"], socket_timeout=None)
broker.add_middleware(Results(backend=RedisBackend(client=_results, encoder=PickleEncoder()), store_results=True))
dramatiq.set_broker(broker)
dramatiq.set_encoder(PickleEncoder())
_ACTORS: dict[Callable[..., Any], Any] = {
    task: dramatiq.actor(task, max_retries=0, time_limit=_PATIENCE_MS) for task in TASKS
}


class DramatiqSystem(System):
    """`.send()` and `.get_result(block=True)`; a shared value goes with every call."""

    def start(self) -> None:
        """Start the worker; calls wait for it in RabbitMQ."""
        self._worker = WorkerProcess(
            "dramatiq", "peers.dramatiq_system", "--processes", str(EXECUTORS), "--threads", "1", "--use-spawn"
        )

    def call(self, task: Callable[..., Any], *arguments: Any) -> Any:
        """Send one call and wait."""
        return _ACTORS[task].send(*arguments).get_result(block=True, timeout=_PATIENCE_MS)

    def call_all(self, task: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send all calls, then wait."""
        sent = [_ACTORS[task].send(*arguments) for arguments in calls]
        return [message.get_result(block=True, timeout=_PATIENCE_MS) for message in sent]

    def stop(self) -> None:
        """End the worker."""
        self._worker.stop()
        broker.close()


make_system = DramatiqSystem
