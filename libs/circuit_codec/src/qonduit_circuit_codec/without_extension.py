"""Reads what the extension packed, through Qiskit's own bindings for ctypes: slow, and exact."""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from qonduit_circuit_codec import Packed

    _Column = np.ndarray[Any, Any]

_COUNTS_BYTES: Final = 32
_LABEL: Final = struct.Struct("=QQ")
_MEASURE: Final = 200
_RESET: Final = 201
_BARRIER: Final = 202
_NOT_SUCH: Final = "these are not the packed instructions of a circuit with these bits"


def unpack(data: Any, packed: Packed) -> list[tuple[int, str]]:
    """Append packed instructions; return (number, label) of those that are to have one."""
    from qiskit import capi  # noqa: PLC0415 - A Qiskit that has none cannot have made such bytes either.

    kinds, indices, params, labels = _columns(packed)
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
    return _labels(labels, len(kinds))


def _columns(packed: Packed) -> tuple[_Column, _Column, _Column, memoryview]:
    """Return the columns of kinds, indices of bits, parameters, and labels."""
    if len(packed) < _COUNTS_BYTES:
        raise ValueError(_NOT_SUCH)
    kinds, indices, params, labels = (int(count) for count in np.frombuffer(packed, np.uint64, 4))
    after_params = _COUNTS_BYTES + 8 * params
    after_indices = after_params + 4 * indices
    after_kinds = after_indices + kinds
    if len(packed) != after_kinds + labels:
        raise ValueError(_NOT_SUCH)
    return (
        np.frombuffer(packed, np.uint8, kinds, after_indices),
        np.frombuffer(packed, np.uint32, indices, after_params),
        np.frombuffer(packed, np.float64, params, _COUNTS_BYTES),
        memoryview(packed)[after_kinds:],
    )


def _labels(column: memoryview, instructions: int) -> list[tuple[int, str]]:
    found = []
    while column:
        if len(column) < _LABEL.size:
            raise ValueError(_NOT_SUCH)
        number, length = _LABEL.unpack_from(column)
        text, column = column[_LABEL.size : _LABEL.size + length], column[_LABEL.size + length :]
        if number >= instructions or len(text) != length:
            raise ValueError(_NOT_SUCH)
        found.append((number, str(text, "utf-8")))
    return found
