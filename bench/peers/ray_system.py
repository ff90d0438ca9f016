"""Ray: a cluster of its own on this machine, two CPUs, started with the program."""

from __future__ import annotations

import tempfile
from functools import cache
from typing import TYPE_CHECKING, Any

import ray
from peers.system import EXECUTORS, System

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@cache
def _remote(task: Callable[..., Any]) -> Any:
    return ray.remote(num_cpus=1)(task)


class RaySystem(System):
    """`ray.init(num_cpus=2)`, `.remote()`, `ray.get`, `ray.put`."""

    shares = True

    def start(self) -> None:
        """Start the cluster; without the dashboard, which few run for a program."""
        ray.init(
            num_cpus=EXECUTORS,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            _temp_dir=tempfile.gettempdir() + "/ray",  # What runs this removes it.
            _node_ip_address="127.0.0.1",
        )

    def share(self, value: object) -> Any:
        """Put the value into the object store."""
        return ray.put(value)

    def call(self, task: Callable[..., Any], *arguments: Any) -> Any:
        """Send one call and wait."""
        return ray.get(_remote(task).remote(*arguments))

    def call_all(self, task: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send all calls, then wait."""
        remote = _remote(task)
        values: list[Any] = ray.get([remote.remote(*arguments) for arguments in calls])
        return values

    def stop(self) -> None:
        """End the cluster."""
        ray.shutdown()


make_system = RaySystem
