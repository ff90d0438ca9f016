"""The instructions of a circuit as bytes, copied out of and into Qiskit's own memory.

What is held exactly: Qiskit's standard gates whose parameters are floats, measurements, resets and barriers, and their
labels. Bits, registers and the global phase are not part of it. The bytes are of this machine's byte order and of
this version of Qiskit: made to cross to another process, not to be kept.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    Packed = bytes | bytearray | memoryview


def pack(data: Any) -> bytes | None:
    """Return the instructions of a circuit's `_data`.

    None when they are not all of a kind that is held, or when there is no extension: it was not built, or for another
    minor version of Qiskit than this.
    """
    native = _extension()
    packed: bytes | None = native.pack(data) if native else None
    return packed


def unpack(data: Any, packed: Packed) -> None:
    """Append packed instructions to the `_data` of a circuit that has the bits.

    Raises:
        ValueError: These are not such bytes, or the circuit has fewer bits than they name.
    """
    # Without the extension, some other machine has it.
    from qonduit_circuit_codec import without_extension  # noqa: PLC0415 - It loads NumPy.

    first = len(data)
    for number, label in (_extension() or without_extension).unpack(data, packed):
        instruction = data[first + number]
        operation = instruction.operation
        if not operation.mutable:
            operation = operation.to_mutable()
        operation.label = label
        data[first + number] = instruction.replace(operation=operation)


@cache
def _extension() -> ModuleType | None:
    try:
        from qonduit_circuit_codec import _native as found  # noqa: PLC0415 - It loads Qiskit.
    except (ImportError, AttributeError):  # The latter from a Qiskit that has no C API at all.
        return None
    return found
