"""What objects are reduced to, by their class."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, Protocol

from qonduit.program import devices, pass_managers

if TYPE_CHECKING:
    from collections.abc import Callable

    from qiskit import QuantumCircuit

    Reducer = Callable[[Any, "CircuitTaker"], Any]


class CircuitTaker(Protocol):
    """The pickler, as far as reducers know it."""

    def take_circuit(self, circuit: QuantumCircuit) -> int | None:
        """Put a circuit's instructions aside and return their number; None when they are to be pickled with it."""


_MOST_KNOWN = 4096
_known: dict[type, Reducer | None] = {}


def find_reducer(kind: type) -> Reducer | None:
    """Return how objects of a class are reduced, or None where plain pickle knows.

    A reducer that returns None leaves the object to cloudpickle.
    """
    try:
        return _known[kind]
    except KeyError:
        if len(_known) >= _MOST_KNOWN:  # A program that makes classes without end must not be kept alive by us.
            _known.clear()
        reducer = _known[kind] = _choose(kind)
        return reducer


def _choose(kind: type) -> Reducer | None:
    if issubclass(kind, (type, types.FunctionType)):
        return _leave_to_cloudpickle
    if issubclass(kind, BaseException):
        return _reduce_exception if kind.__reduce__ is BaseException.__reduce__ else None
    # By name: a program without circuits never imports Qiskit here.
    names = {f"{base.__module__}.{base.__name__}" for base in kind.__mro__}
    inherited = next((reducer for name, reducer in _INHERITED.items() if name in names), None)
    return inherited or _OWN.get(f"{kind.__module__}.{kind.__name__}")


def _leave_to_cloudpickle(obj: object, pickler: CircuitTaker) -> None:
    del obj, pickler


def _reduce_exception(error: BaseException, pickler: CircuitTaker) -> Any:
    del pickler
    return _load_exception, (type(error), error.args, error.__dict__)


def _load_exception(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """Make an exception without its constructor, which may not take what it passed on to its base."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _reduce_circuit(circuit: QuantumCircuit, pickler: CircuitTaker) -> Any:
    from qonduit.program.serial import circuits  # noqa: PLC0415 - Qiskit is loaded: there is a circuit.

    number = pickler.take_circuit(circuit)
    if number is None:
        return None
    return load_circuit, (type(circuit), number), circuits.state(circuit)


def load_circuit(kind: type[QuantumCircuit], number: int) -> QuantumCircuit:
    """Make a circuit of the instructions with this number; its state comes after it."""
    from qonduit.program import pickling  # noqa: PLC0415 - It imports this module.
    from qonduit.program.serial import circuits  # noqa: PLC0415

    return circuits.restore(kind, pickling.decoded_circuit(number))


def _reduce_layout(layout: Any, pickler: CircuitTaker) -> Any:
    from qonduit.program.serial import layouts  # noqa: PLC0415

    del pickler
    return layouts.reduce_layout(layout)


def _reduce_service(service: Any, pickler: CircuitTaker) -> Any:
    del service, pickler  # In a sandbox every service is the job's own; the executor makes one with its own endpoint.
    return devices.runtime_service, ()


_INHERITED: dict[str, Reducer] = {
    "qiskit.circuit.quantumcircuit.QuantumCircuit": _reduce_circuit,
    "qiskit_ibm_runtime.fake_provider.fake_backend.FakeBackendV2": lambda backend, _: (
        devices.reduce_fake_backend(backend) if type(backend).__module__.startswith("qiskit_ibm_runtime.") else None
    ),
}
"""By the class that objects or their class's ancestors have."""
_OWN: dict[str, Reducer] = {
    "qiskit.transpiler.layout.TranspileLayout": _reduce_layout,
    "qiskit.transpiler.target.Target": lambda target, _: devices.reduce_target(target),
    "qiskit.transpiler.passmanager.StagedPassManager": lambda made, _: pass_managers.reduce_pass_manager(made),
    "qiskit_ibm_runtime.qiskit_runtime_service.QiskitRuntimeService": _reduce_service,
    "qiskit_ibm_runtime.ibm_backend.IBMBackend": lambda backend, _: devices.reduce_backend(backend),
}
"""By the very class."""
