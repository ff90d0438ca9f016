"""Reads what the extension packed, through Qiskit's own bindings for ctypes: slow, and exact."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from qonduit_circuit_codec import Packed

_COUNTS_BYTES: Final = 24
_MEASURE: Final = 200
_RESET: Final = 201
_BARRIER: Final = 202
_NOT_SUCH: Final = "these are not the packed instructions of a circuit with these bits"


def unpack(data: Any, packed: Packed) -> None:
    """Append packed instructions; see the package's `unpack`."""
    from qiskit import capi  # noqa: PLC0415 - A Qiskit that has none cannot have made such bytes either.

    kinds, indices, params = _columns(packed)
    circuit = capi.qk_circuit_borrow_from_python(data)
    at_index = at_param = 0
    for kind in kinds.tolist():
        if kind == _BARRIER:
            at_index += 1
            qubits, clbits, reals = int(indices[at_index - 1]), 0, 0
        elif kind in (_MEASURE, _RESET):
            qubits, clbits, reals = 1, int(kind == _MEASURE), 0
        else:
            qubits, clbits, reals = capi.qk_gate_num_qubits(kind), 0, capi.qk_gate_num_params(kind)
        on = indices[at_index : at_index + qubits]
        to = indices[at_index + qubits : at_index + qubits + clbits]
        given = params[at_param : at_param + reals]
        at_index += qubits + clbits
        at_param += reals
        if at_index > len(indices) or at_param > len(params):
            raise ValueError(_NOT_SUCH)
        if (qubits and on.max() >= data.num_qubits) or (clbits and to.max() >= data.num_clbits):
            raise ValueError(_NOT_SUCH)
        where = (ctypes.c_uint32 * qubits)(*on.tolist())
        if kind == _BARRIER:
            capi.qk_circuit_barrier(circuit, where, qubits)
        elif kind == _RESET:
            capi.qk_circuit_reset(circuit, where[0])
        elif kind == _MEASURE:
            capi.qk_circuit_measure(circuit, where[0], int(to[0]))
        else:
            capi.qk_circuit_gate(circuit, kind, where, (ctypes.c_double * reals)(*given.tolist()))


def _columns(packed: Packed) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the columns of kinds, indices of bits, and parameters."""
    if len(packed) < _COUNTS_BYTES:
        raise ValueError(_NOT_SUCH)
    kinds, indices, params = (int(count) for count in np.frombuffer(packed, np.uint64, 3))
    if len(packed) != _COUNTS_BYTES + 8 * params + 4 * indices + kinds:
        raise ValueError(_NOT_SUCH)
    after_params = _COUNTS_BYTES + 8 * params
    after_indices = after_params + 4 * indices
    return (
        np.frombuffer(packed, np.uint8, kinds, after_indices),
        np.frombuffer(packed, np.uint32, indices, after_params),
        np.frombuffer(packed, np.float64, params, _COUNTS_BYTES),
    )
