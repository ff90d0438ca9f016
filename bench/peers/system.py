"""What each system under test does for the benchmark, in terms that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EXECUTORS: Final = 2
ONE_THREAD: Final = {
    "RAYON_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "QISKIT_PARALLEL": "FALSE",
}
"""Environment of every process that runs tasks: two executors of one thread each, and no thread pools inside."""


class System(ABC):
    """A task system with two executors, as a program uses it. Tasks are functions of `peers.workloads`."""

    shares = False
    """Whether `share` does something; if not, a large argument goes with every call."""

    def start(self) -> None:
        """Start what the system needs beside its servers; returns once tasks may be sent. Here: nothing."""
        return

    def share(self, value: object) -> Any:
        """Return what to pass to many tasks in place of a large value. Here: the value."""
        return value

    @abstractmethod
    def call(self, task: Callable[..., Any], *arguments: Any) -> Any:
        """Run one task and return its value."""

    @abstractmethod
    def call_all(self, task: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send all calls one by one, then wait for all values; return them in order."""

    def map_all(self, task: Callable[..., Any], values: Sequence[Any]) -> list[Any] | None:
        """Run the task on each value with one call of the API. Here: None, there is no such call."""
        del task, values
        return None

    def stop(self) -> None:
        """End every process that `start` began. Here: nothing."""
        return
