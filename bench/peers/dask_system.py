"""Dask distributed: a `LocalCluster` of two processes with one thread each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distributed import Client, LocalCluster
from peers.system import EXECUTORS, System

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class DaskSystem(System):
    """`client.submit`, `client.gather`, `client.scatter(broadcast=True)`."""

    shares = True

    def start(self) -> None:
        """Start the cluster; without the dashboard."""
        self._cluster = LocalCluster(
            n_workers=EXECUTORS,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            host="127.0.0.1",
        )
        self._client = Client(self._cluster)

    def share(self, value: object) -> Any:
        """Send the value to both workers."""
        return self._client.scatter(value, broadcast=True)

    def call(self, task: Callable[..., Any], *arguments: Any) -> Any:
        """Send one call and wait; not pure, or the second call would be answered from the first."""
        return self._client.submit(task, *arguments, pure=False).result()

    def call_all(self, task: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send all calls, then wait."""
        futures = [self._client.submit(task, *arguments, pure=False) for arguments in calls]
        values: list[Any] = self._client.gather(futures)
        return values

    def stop(self) -> None:
        """End the cluster."""
        self._client.close()
        self._cluster.close()


make_system = DaskSystem
