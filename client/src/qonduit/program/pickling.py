"""Bytes of task calls and their values: cloudpickle with reducers of our own for Qiskit's types.

They cross only from a job's driver to the same job's executors and back: same user, same trust. Nothing
outside a sandbox reads them. Pickling a QuantumCircuit costs more than transpiling it, so circuits travel
as QPY; a service or a backend is named, and made anew (once a process) where it is used, since the one in
the driver is tied to the driver's own QPU endpoint.
"""

from __future__ import annotations

import io
import pickle
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import cloudpickle

if TYPE_CHECKING:
    from collections.abc import Callable

    from qiskit import QuantumCircuit
    from qiskit_ibm_runtime import IBMBackend, QiskitRuntimeService


def dumps(value: object) -> bytes:
    """Return the bytes of a value; raises what the value's own reducers raise when it cannot be pickled."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def loads(data: bytes) -> Any:
    """Return the value of bytes made by `dumps` in the same job."""
    return pickle.loads(data)  # noqa: S301 - Same job, same user, inside the same sandbox walls.


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, obj: object) -> Any:
        reducer = _reducer_for(type(obj))
        if reducer is not None:
            reduced = reducer(obj)
            if reduced is not None:
                return reduced
        return super().reducer_override(obj)


def _reducer_for(kind: type) -> Callable[[Any], Any] | None:
    """Find the reducer by module first: a program without circuits never imports Qiskit here."""
    if issubclass(kind, BaseException) and kind.__reduce__ is BaseException.__reduce__:
        return _reduce_exception
    if not kind.__module__.startswith("qiskit"):
        return None
    circuit_module = sys.modules.get("qiskit.circuit")
    if circuit_module is not None and issubclass(kind, circuit_module.QuantumCircuit):
        return _reduce_circuit
    return {"QiskitRuntimeService": _reduce_service, "IBMBackend": _reduce_backend}.get(kind.__name__)


def _reduce_exception(error: BaseException) -> Any:
    return _load_exception, (type(error), error.args, error.__dict__)


def _load_exception(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """Make an exception without its constructor, which may not take what it passed on to its base."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _reduce_circuit(circuit: QuantumCircuit) -> Any:
    from qiskit import qpy  # noqa: PLC0415 - Loaded already: there is a circuit.

    buffer = io.BytesIO()
    try:
        qpy.dump(circuit, buffer)
    except Exception:  # noqa: BLE001 - QPY has no room for some custom instructions and metadata; pickle has.
        return None
    return _load_circuit, (buffer.getvalue(),)


def _load_circuit(data: bytes) -> QuantumCircuit:
    from qiskit import qpy  # noqa: PLC0415 - Only tasks with circuits pay for it.

    circuit: QuantumCircuit = qpy.load(io.BytesIO(data))[0]
    return circuit


def _reduce_service(service: QiskitRuntimeService) -> Any:
    del service  # In a sandbox every service is the job's own; the executor makes one with its own endpoint.
    return runtime_service, ()


def _reduce_backend(backend: IBMBackend) -> Any:
    return runtime_backend, (backend.name,)


@cache
def runtime_service() -> QiskitRuntimeService:
    """Return this process's runtime service, made on first use."""
    from qiskit_ibm_runtime import QiskitRuntimeService  # noqa: PLC0415 - 1.5 s where it is not preloaded.

    return QiskitRuntimeService()


@cache
def runtime_backend(name: str) -> IBMBackend:
    """Return a backend by name, made on first use: its target is built once a process."""
    return runtime_service().backend(name)
