"""The program that measures Qonduit: it runs as a job, as a user's program would.

The task that makes its own pass manager stands here, as on the page that users start from, with the real
runtime client; all other tasks and all measures are the same files as for the peers.
"""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING, Any

from peers.measures import MEASURES
from peers.system import System
from peers.workloads import no_op, transpile_from_backend
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime import QiskitRuntimeService
from qonduit import Job, distribute_task, get, get_arguments, put, save_result, update_status

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qiskit import QuantumCircuit

_BACKENDS = {"fake_torino": "ibm_torino"}
_ONE_CPU = {"cpu": 1}


class QonduitSystem(System):
    """`@distribute_task`, `get`, `put`; the executors come and go by themselves."""

    shares = True

    def share(self, value: object) -> Any:
        """Store the value."""
        return put(value)

    def call(self, task: Callable[..., Any], *arguments: Any) -> Any:
        """Send one call and wait."""
        return get(_distributed(task)(*arguments))

    def call_all(self, task: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send all calls, then wait."""
        remote = _distributed(task)
        values: list[Any] = get([remote(*arguments) for arguments in calls])
        return values

    def map_all(self, task: Callable[..., Any], values: Sequence[Any]) -> list[Any] | None:
        """Send all calls at once, then wait."""
        bulk = getattr(_distributed(task), "map", None)
        return None if bulk is None else get(bulk(values))


@cache
def _distributed(task: Callable[..., Any]) -> Callable[..., Any]:
    if task is transpile_from_backend:
        return _transpile_on_real_client
    return distribute_task(target=_ONE_CPU)(task)


def _transpile_on_real_client(circuit: QuantumCircuit, level: int, backend: str) -> Any:
    return transpile_remote(circuit, level, _BACKENDS[backend])


service: Any = None


@distribute_task(target=_ONE_CPU)
def transpile_remote(circuit: QuantumCircuit, optimization_level: int, backend: str) -> QuantumCircuit:
    """Transpile as the page does."""
    pass_manager = generate_preset_pass_manager(optimization_level=optimization_level, backend=service.backend(backend))
    return pass_manager.run(circuit)


def main() -> None:
    """Take the measures that the arguments name; `begun` is the time just before the job was submitted."""
    global service  # noqa: PLW0603 - As on the page; made only by the runs that use it.
    arguments = get_arguments()
    system = QonduitSystem()
    system.call(no_op)
    numbers = {"first_s": time.time() - arguments["begun"]}
    names = arguments["names"]
    if "ownpm" in names:
        service = QiskitRuntimeService()
    for name in names:
        if name in MEASURES:
            numbers |= MEASURES[name](system)
    save_result(numbers)
    if arguments["idle_s"]:
        update_status(Job.POST_PROCESSING)  # What reads the memory waits for this.
        time.sleep(arguments["idle_s"])


main()
