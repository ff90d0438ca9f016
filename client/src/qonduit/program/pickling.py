"""Bytes of task calls and their values: cloudpickle with reducers of our own for Qiskit's types.

They cross only from a job's driver to the same job's executors and back: same user, same trust. Nothing
outside a sandbox reads them. What each type is reduced to is in `serial/reducers.py`, and how the bytes lie in
`serial/container.py`.
"""

from __future__ import annotations

import io
import pickle
import threading
from typing import TYPE_CHECKING, Any, Final

import cloudpickle

from qonduit.program.serial import container
from qonduit.program.serial.reducers import find_reducer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qiskit import QuantumCircuit

_PROTOCOL: Final = 5
_IN_BAND_BYTES: Final = 8192
"""Buffers up to this size are copied into the pickle: a segment of their own costs more."""


_PLAIN_DEPTH: Final = 4
_PLAIN_ITEMS: Final = 16
_PLAIN_KINDS: Final = frozenset({int, float, str, bytes, bool, type(None)})


def _is_plain(value: object, depth: int) -> bool:
    """Whether a small value is made of Python's own types alone, for which plain pickle is all that is needed.

    Making a pickler that asks for each object takes longer than pickling the arguments of most calls.
    """
    kind = type(value)
    if kind in _PLAIN_KINDS:
        return True
    if not depth or (kind is not tuple and kind is not list and kind is not dict):
        return False
    items: Any = value
    if len(items) > _PLAIN_ITEMS:
        return False
    for item in [*items, *items.values()] if kind is dict else items:
        if type(item) not in _PLAIN_KINDS and not _is_plain(item, depth - 1):
            return False
    return True


def dump_parts(value: object) -> list[bytes | memoryview]:
    """Encode a value without copying its large buffers.

    Returns:
        The parts of one container; write them one after another. Large arrays are views of the value's own memory, so
        write them before the value changes.

    Raises:
        Exception: what the value's own reducers raise when it cannot be pickled.
    """
    if _is_plain(value, _PLAIN_DEPTH):
        return [pickle.dumps(value, _PROTOCOL)]
    pickler = _Pickler()
    pickled = pickler.encode(value)
    if not pickler.circuits:
        return container.pack(pickled, pickler.buffers, None) if pickler.buffers else [pickled]
    return _with_circuits(value, pickler, pickled)


def dumps(value: object) -> bytes:
    """Return the bytes of a value; raises what the value's own reducers raise when it cannot be pickled."""
    parts = dump_parts(value)
    return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)


def loads(data: bytes | bytearray | memoryview, *, writable: bool = True) -> Any:
    """Return the value of bytes made by `dumps` or `dump_parts` in the same job.

    Large arrays are views into a `bytearray` or a `memoryview`: with as much right to write as that memory gives, so
    arrays of a read-only mapping are read-only, and who wants to write in one copies it first. Arrays of `bytes` are
    copied, so that they can be written to like those of the sender.

    Args:
        data: what `dumps` returned, or the parts of `dump_parts` one after another.
        writable: False makes arrays read-only views whatever the memory is, and copies nothing.

    Raises:
        ValueError: these are not such bytes, or not all of them.
    """
    if container.is_bare(data):
        return pickle.loads(data)  # noqa: S301 - Same job, same user, inside the same sandbox walls.
    pickled, buffers, circuits = container.unpack(data)
    given: Sequence[memoryview | bytearray] = buffers
    if not writable:
        given = [buffer.toreadonly() for buffer in buffers]
    elif isinstance(data, bytes):
        given = [bytearray(buffer) for buffer in buffers]
    if circuits is None:
        return pickle.loads(pickled, buffers=given)  # noqa: S301 - As above.
    return _loads_with_circuits(pickled, given, circuits)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles one value; circuits and large buffers are put aside."""

    def __init__(self, refused: frozenset[int] = frozenset()) -> None:
        self.file = io.BytesIO()
        self.buffers: list[memoryview] = []
        self.circuits: list[QuantumCircuit] = []
        self.copied: list[bytes] = []
        """Of each of the circuits, what is copied of its instructions."""
        self._refused = refused
        super().__init__(self.file, _PROTOCOL, self._take_buffer)

    def encode(self, value: object) -> bytes:
        self.dump(value)
        return self.file.getvalue()

    def _take_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes <= _IN_BAND_BYTES:
            return True
        self.buffers.append(view)
        return False

    def reducer_override(self, obj: object) -> Any:
        reducer = find_reducer(type(obj))
        if reducer is None:
            return NotImplemented
        reduced = reducer(obj, self)
        return super().reducer_override(obj) if reduced is None else reduced

    def take_circuit(self, circuit: QuantumCircuit) -> int | None:
        """Put a circuit's instructions aside; None when they would come back changed."""
        from qonduit.program.serial import circuits  # noqa: PLC0415 - Loaded by the reducer: there is a circuit.

        if id(circuit) in self._refused or (copied := circuits.copied(circuit)) is None:
            return None
        self.circuits.append(circuit)
        self.copied.append(copied)
        return len(self.circuits) - 1


def _with_circuits(value: object, pickler: _Pickler, pickled: bytes) -> list[bytes | memoryview]:
    from qonduit.program.serial import circuits  # noqa: PLC0415 - Loaded by the reducer: there is a circuit.

    try:
        payload = circuits.encode(pickler.circuits, pickler.copied)
    except Exception:  # noqa: BLE001 - QPY has no room for something in one of them; pickle has.
        again = _Pickler(frozenset(id(circuit) for circuit in pickler.circuits if not circuits.can_encode(circuit)))
        pickled = again.encode(value)
        payload = circuits.encode(again.circuits, again.copied)
        pickler = again
    return container.pack(pickled, pickler.buffers, payload)


_decoded: Final = threading.local()
"""The circuits of the value that this thread is reading."""


def _loads_with_circuits(
    pickled: bytes | bytearray | memoryview, buffers: Sequence[memoryview | bytearray], payload: memoryview
) -> Any:
    from qonduit.program.serial import circuits  # noqa: PLC0415 - Only values with circuits pay for it.

    outer = getattr(_decoded, "circuits", None)
    _decoded.circuits = circuits.decode(payload)
    try:
        return pickle.loads(pickled, buffers=buffers)  # noqa: S301 - As above.
    finally:
        _decoded.circuits = outer


def decoded_circuit(number: int) -> QuantumCircuit:
    """Return one of the circuits of the value that is being read; what `dumps` makes of a circuit calls it."""
    circuit: QuantumCircuit = _decoded.circuits[number]
    return circuit
