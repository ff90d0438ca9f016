"""`concurrent.futures.ProcessPoolExecutor`: two processes and pipes, no broker, no machine but this one."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

from peers.system import EXECUTORS, System

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class PoolSystem(System):
    """A pool of two processes; a shared value goes with every call, since a pool has no other way."""

    def start(self) -> None:
        """Make the pool; it forks its processes at the first call."""
        self._pool = ProcessPoolExecutor(EXECUTORS)

    def call(self, task: Callable[..., Any], *arguments: Any) -> Any:
        """Submit one call and wait."""
        return self._pool.submit(task, *arguments).result()

    def call_all(self, task: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Submit all calls, then wait."""
        futures = [self._pool.submit(task, *arguments) for arguments in calls]
        return [future.result() for future in futures]

    def stop(self) -> None:
        """End the processes."""
        self._pool.shutdown()


make_system = PoolSystem
