"""Circuits of one value as one QPY payload.

Pickling a `QuantumCircuit` makes a Python object of each gate, which costs more than transpiling it. QPY writes gates
straight from Qiskit's own memory but loses some of what a Python object holds. So QPY carries the instructions alone,
where it carries them exactly, and the rest of the object (name, metadata, layout, what a subclass added) is pickled
beside it. A circuit that QPY would change is pickled whole. And where all instructions are plain ones, which is what a
device runs, they are copied by `qonduit_circuit_codec`, and QPY carries bits and registers alone: it would spend three
times as long, most of it on importing modules by name for each gate.
"""

from __future__ import annotations

import builtins
import io
import struct
import sys
import types
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import qonduit_circuit_codec
import zstandard
from qiskit import QuantumCircuit, qpy
from qiskit._accelerate.circuit import CircuitData
from qiskit.circuit import (
    Barrier,
    BreakLoopOp,
    Clbit,
    ContinueLoopOp,
    ControlledGate,
    Delay,
    ForLoopOp,
    Gate,
    IfElseOp,
    Instruction,
    Measure,
    Qubit,
    Reset,
    Store,
    SwitchCaseOp,
    WhileLoopOp,
)
from qiskit.circuit.library import Initialize, PauliEvolutionGate, PauliGate, StatePreparation, UnitaryGate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_DATA: Final = "_data"
_COMPRESS_FROM_BYTES: Final = 2048
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
# What QPY of Qiskit 2.6 gives back as it was, found out by trying each: it loses the unit of a delay, the class of
# a gate that a program defines, and cannot read some gates of the library that it wrote.
_WHOLE: Final = (Measure, Reset, Barrier, UnitaryGate, Initialize, StatePreparation, PauliGate, Store)
_WHOLE_KINDS: Final = frozenset({*_WHOLE, type(Measure()), type(Reset()), BreakLoopOp, ContinueLoopOp})
_BLOCK_KINDS: Final = frozenset({IfElseOp, WhileLoopOp, ForLoopOp, SwitchCaseOp})


def copied(circuit: QuantumCircuit) -> bytes | None:
    """Return the copy of a circuit's instructions; b"" when QPY is to carry them, None when both would change them."""
    kind: Any = type(circuit)
    if not _is_plain(kind) or circuit.__dict__.get("_control_flow_scopes"):
        return None
    data = circuit.__dict__.get(_DATA)
    if not isinstance(data, CircuitData) or not _owns_bits(data):
        return None
    # What is copied is exact, so only what is not copied needs a look.
    copy = qonduit_circuit_codec.pack(data)
    return copy if copy is not None else b"" if _holds_operations(data) else None


def encode(circuits: list[QuantumCircuit], copies: list[bytes]) -> bytes:
    """Return the instructions of circuits, compressed; raises whatever QPY raises of one it cannot hold.

    Args:
        circuits: Those of which `copied` did not return None.
        copies: What it returned of each.
    """
    rest = io.BytesIO()
    _dump()([_shell(circuit, empty=bool(copy)) for circuit, copy in zip(circuits, copies, strict=True)], rest)
    lengths = struct.pack(f"<{1 + len(copies)}Q", len(copies), *map(len, copies))
    payload = b"".join([lengths, *copies, rest.getbuffer()])
    # A tenth is left, which is why a transpiled circuit fits in a message.
    return _compressed(payload) if len(payload) >= _COMPRESS_FROM_BYTES else payload


def can_encode(circuit: QuantumCircuit) -> bool:
    """Whether QPY writes a circuit."""
    try:
        _dump()([_shell(circuit, empty=False)], io.BytesIO())
    except Exception:  # noqa: BLE001 - Whatever it says.
        return False
    return True


def decode(payload: memoryview) -> list[QuantumCircuit]:
    """Return circuits that hold the instructions of those given to `encode` and nothing else of them."""
    if bytes(payload[:4]) == _ZSTD_MAGIC:
        payload = memoryview(zstandard.ZstdDecompressor().decompress(payload))
    (count,) = struct.unpack_from("<Q", payload)
    lengths = struct.unpack_from(f"<{count}Q", payload, 8)
    start = 8 * (1 + count)
    decoded: list[QuantumCircuit] = qpy.load(io.BytesIO(payload[start + sum(lengths) :]))
    for circuit, length in zip(decoded, lengths, strict=True):
        if length:
            qonduit_circuit_codec.unpack(circuit.__dict__[_DATA], payload[start : start + length])
            start += length
    return decoded


def state(circuit: QuantumCircuit) -> dict[str, Any]:
    """Return what is beside the instructions."""
    beside = dict(circuit.__dict__)
    for name in (_DATA, "_builder_api", "_control_flow_scopes"):
        beside.pop(name, None)
    return beside


def restore(kind: Any, instructions: QuantumCircuit) -> QuantumCircuit:
    """Make a circuit of the decoded instructions; its state comes after it."""
    circuit: QuantumCircuit = kind.__new__(kind)
    made = instructions.__dict__
    own = circuit.__dict__
    own[_DATA] = made[_DATA]
    own["_builder_api"] = type(made["_builder_api"])(circuit)
    own["_control_flow_scopes"] = []
    return circuit


@cache
def _is_plain(kind: Any) -> bool:
    """Whether objects of this class are pickled as their `__dict__`, so that we may do the same."""
    return (
        kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and kind.__getstate__ is object.__getstate__
        and not hasattr(kind, "__setstate__")
        and not hasattr(kind, "__getnewargs__")
        and not hasattr(kind, "__getnewargs_ex__")
        and not any("__slots__" in base.__dict__ for base in kind.__mro__)
    )


def _holds(circuit: QuantumCircuit) -> bool:
    """Whether QPY holds bits and instructions."""
    data = circuit.__dict__.get(_DATA)
    return isinstance(data, CircuitData) and _owns_bits(data) and _holds_operations(data)


def _owns_bits(data: CircuitData) -> bool:
    return all(_is_owned(bit, Qubit) for bit in data.qubits) and all(_is_owned(bit, Clbit) for bit in data.clbits)


def _holds_operations(data: CircuitData) -> bool:
    """Look at those instructions alone that are Python objects, the others are exact."""
    found: list[Any] = []

    def look(operation: Any) -> Any:
        found.append(operation)
        return operation

    data.copy().map_nonstandard_ops(look)
    return all(_holds_operation(operation) for operation in found)


def _is_owned(bit: Any, kind: Any) -> bool:
    # A bit of no register is itself and no other; QPY would make a new one.
    return type(bit) is kind and bit._register is not None  # noqa: SLF001 - Nothing public tells.


def _holds_operation(operation: Any) -> bool:
    kind = type(operation)
    if kind in _WHOLE_KINDS:
        return True
    if kind is Delay:
        return operation.unit == "dt" and isinstance(operation.duration, int)
    if kind in _BLOCK_KINDS:
        return all(_holds_block(block) for block in operation.blocks)
    if kind in {Gate, Instruction}:
        return operation.definition is None or _holds_block(operation.definition)
    if kind is ControlledGate:
        return _holds_gate(operation.base_gate)
    # QPY writes which synthesis of Qiskit's and its settings, but not one that a program defines.
    return kind is PauliEvolutionGate and type(operation.synthesis).__module__.startswith("qiskit.")


def _holds_gate(gate: Any) -> bool:
    alone = QuantumCircuit(gate.num_qubits)
    alone.append(gate, alone.qubits)
    return _holds(alone)


def _holds_block(block: QuantumCircuit) -> bool:
    # QPY writes a block's metadata as JSON, which makes lists of tuples and strings of numbers.
    return type(block) is QuantumCircuit and not block.metadata and _holds(block)


def _compressed(payload: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(payload)


def _shell(circuit: QuantumCircuit, *, empty: bool) -> QuantumCircuit:
    """Return a circuit that shares the instructions, or has none, and has nothing that QPY would write beside them."""
    shell: QuantumCircuit = object.__new__(QuantumCircuit)
    shell.__dict__.update(circuit.__dict__, name="", _layout=None, _metadata={})
    if empty:
        shell.__dict__[_DATA] = circuit.__dict__[_DATA].copy_empty_like()
    return shell


@cache
def _dump() -> Callable[[Iterable[QuantumCircuit], io.BytesIO], None]:
    """Return `qpy.dump` with an `__import__` that is quick about modules that are there.

    Qiskit 2.6 imports three modules by name for each instruction that it writes, which takes a third of its time. It
    looks for `__import__` where its Python caller does and then takes the module from `sys.modules`, so a copy of that
    caller with other builtins is all that is needed.
    """
    original: Callable[[Iterable[QuantumCircuit], io.BytesIO], None] = qpy.dump
    if not isinstance(original, types.FunctionType):
        return original
    do_import, modules = builtins.__import__, sys.modules

    def quick_import(name: str, outer: Any = None, inner: Any = None, names: Any = (), level: int = 0) -> Any:
        if name in modules and type(names) is list:  # Only C code gives a list; it drops what it gets.
            return None
        return do_import(name, outer, inner, names, level)

    scope = {**original.__globals__, "__builtins__": {**vars(builtins), "__import__": quick_import}}
    return types.FunctionType(original.__code__, scope, argdefs=original.__defaults__)
