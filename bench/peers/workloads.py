"""The tasks that every system runs, and the circuits, the same for all.

Imports of Qiskit are inside the functions: for every system its executors start without it, as they would for
tasks that don't need it, and the first batch pays for the import ("cold"). Arguments are annotated as Any because
taskiq evaluates the annotations of its tasks.
"""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from qiskit import QuantumCircuit
    from qiskit.transpiler import PassManager

CIRCUITS: Final = 64
_FEWEST_QUBITS: Final = 20
_MOST_QUBITS: Final = 50
_DEPTH: Final = 25


def no_op(_: object = None) -> None:
    """Do nothing."""


def pause(seconds: float) -> None:
    """Keep an executor busy, so that the next task goes to the other one."""
    time.sleep(seconds)


def byte_count(array: Any) -> int:
    """Touch an array and return its size."""
    return int(array.nbytes) + int(array[0] != array[0])


def transpile(circuit: Any, level: int) -> Any:
    """Transpile with a pass manager that is made once a process."""
    return _pass_manager(level).run(circuit)


def transpile_from_backend(circuit: Any, level: int, backend: str) -> Any:
    """Transpile as the page does that users start from: each task makes its own pass manager."""
    from qiskit.transpiler import generate_preset_pass_manager  # noqa: PLC0415 - See the module's docstring.

    pass_manager = generate_preset_pass_manager(optimization_level=level, backend=_service().backend(backend))
    return pass_manager.run(circuit)


@cache
def _pass_manager(level: int) -> PassManager:
    from qiskit.transpiler import generate_preset_pass_manager  # noqa: PLC0415
    from qiskit_ibm_runtime.fake_provider import FakeTorino  # noqa: PLC0415

    return generate_preset_pass_manager(optimization_level=level, backend=FakeTorino(), seed_transpiler=1)


@cache
def _service() -> Any:
    """Return the runtime client's own local service: the peers have no access to a real one."""
    from qiskit_ibm_runtime.fake_provider.local_service import QiskitRuntimeLocalService  # noqa: PLC0415

    return QiskitRuntimeLocalService()


TASKS: Final[tuple[Callable[..., Any], ...]] = (no_op, pause, byte_count, transpile, transpile_from_backend)


def make_circuits() -> list[QuantumCircuit]:
    """Return 64 random circuits of 20 to 50 qubits, depth 25, gates of one and two qubits, measured."""
    from qiskit.circuit.random import random_circuit  # noqa: PLC0415

    span = _MOST_QUBITS - _FEWEST_QUBITS
    return [
        random_circuit(
            _FEWEST_QUBITS + span * number // (CIRCUITS - 1), _DEPTH, max_operands=2, measure=True, seed=number
        )
        for number in range(CIRCUITS)
    ]


def make_arrays(count: int, size_bytes: int) -> list[np.ndarray[Any, Any]]:
    """Return arrays of random numbers: no two are alike, and none are like those of another call."""
    import numpy as np  # noqa: PLC0415

    random = np.random.default_rng()
    return [random.random(size_bytes // 8) for _ in range(count)]
