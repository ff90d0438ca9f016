"""Makes what the runtime client posts for a QPU job the same each time its program runs.

A program that lost its worker runs again, and gets back the QPU jobs that it has paid for: those of the same bytes.
QPY writes some things at random, though. Each `Parameter` has a random id; it only tells parameters of one circuit
apart, which names do as well, so what goes to a QPU carries ids made from names. And the symbols of an expression, and
the registers that only a layout has, come in any order; here it is always the same. Circuits of the program stay as
they are.

What is looked for in the bytes is described in the documentation of `qiskit.qpy`. Where a version of it writes
otherwise (18 does; the service takes 17), nothing is found and all stays as it is: then a program that runs again may
have its job run again, too.
"""

from __future__ import annotations

import functools
import io
import re
import struct
import sys
import uuid
from typing import TYPE_CHECKING, Any, Final

from qonduit.program.import_hooks import after_import

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_WRITERS: Final = {
    "qiskit_ibm_runtime.json": ("dump", "_write_parameter"),
    "qiskit_ibm_runtime.utils.json": ("dump", "_write_parameter"),  # Where older clients have it.
    "ibm_quantum_schemas.common.qpy": ("dump",),
    "samplomatic.serialization.parameter_expression_serializer": ("dump",),
}
"""By module, what writes QPY there: `dump(circuits, file, ...)` or `_write_parameter(file, parameter)`."""
_NAMES: Final = uuid.UUID("8c6c1f5e-36a4-5b0e-9f6a-0f3f0c1c7a52")
_ID_BYTES: Final = 16
_PREFIX_BYTES: Final = 12
"""The elements of a vector have successive ids: what they share is looked for, not each of thousands."""
_SYMBOL: Final = re.compile(rb"(?:pp|vv)\x00{8}")
"""How an entry of the symbols of an expression begins: kinds of symbol and value, and no value beside it."""
_PARAMETER: Final = struct.Struct("!H16s")
_ELEMENT: Final = struct.Struct("!HQ16sQ")
_REGISTER: Final = struct.Struct("!c?IH?")


def steady_payloads() -> None:
    """Have the client write the same bytes for the same circuits, in this process. Safe to call twice."""
    for name in _WRITERS:
        after_import(name, _STEADY[name])


def _steady_module(module_name: str) -> None:
    module = sys.modules[module_name]
    for name in _WRITERS[module_name]:
        original = getattr(module, name, None)
        if original is not None and not hasattr(original, "__wrapped__"):
            setattr(module, name, _steady_dump(original) if name == "dump" else _steady_writer(original))


_STEADY: Final = {name: functools.partial(_steady_module, name) for name in _WRITERS}


def _steady_dump(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def dump(programs: Any, file_obj: Any, *arguments: Any, **named: Any) -> None:
        written = io.BytesIO()
        original(programs, written, *arguments, **named)
        payload = written.getvalue()
        for circuit in programs if isinstance(programs, (list, tuple)) else [programs]:
            payload = _sort_registers(payload, _layout_registers(circuit))
            payload = _steady_symbols(payload, getattr(circuit, "parameters", ()))
        file_obj.write(payload)

    return dump


def _steady_writer(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def write(file_obj: Any, parameter: Any) -> None:
        written = io.BytesIO()
        original(written, parameter)
        file_obj.write(_steady_symbols(written.getvalue(), [parameter]))

    return write


# --- Parameters --------------------------------------------------------------------------------


def _steady_symbols(written: bytes, parameters: Iterable[Any]) -> bytes:
    ids = {parameter.uuid.bytes: _steady_id(parameter) for parameter in parameters}
    for prefix in {given[:_PREFIX_BYTES] for given in ids}:
        pattern = re.compile(re.escape(prefix) + b".{%d}" % (_ID_BYTES - _PREFIX_BYTES), re.DOTALL)
        written = pattern.sub(lambda found: ids.get(found[0], found[0]), written)
    return _sort_symbols(written, set(ids.values())) if ids else written


def _steady_id(parameter: Any) -> bytes:
    vector = getattr(parameter, "vector", None)
    if vector is None:
        return uuid.uuid5(_NAMES, f"parameter {parameter.name}").bytes
    # A reader takes the id of the vector for that of the element less its index.
    first = uuid.uuid5(_NAMES, f"vector {vector.name}").int
    return uuid.UUID(int=(first + parameter.index) % (1 << (8 * _ID_BYTES))).bytes


def _sort_symbols(written: bytes, ids: set[bytes]) -> bytes:
    """Put entries that follow each other, which are the symbols of one expression, in the order of their bytes."""
    sorted_up_to = 0
    parts = []
    for found in _SYMBOL.finditer(written):
        start = found.start()
        if start < sorted_up_to:
            continue
        entries = []
        at = start
        while end := _end_of_symbol(written, at, ids):
            entries.append(written[at:end])
            at = end
        if len(entries) > 1:
            parts += [written[sorted_up_to:start], *sorted(entries)]
            sorted_up_to = at
    return b"".join([*parts, written[sorted_up_to:]])


def _end_of_symbol(written: bytes, start: int, ids: set[bytes]) -> int:
    """Return where an entry for one of these parameters ends; 0 when there is none."""
    found = _SYMBOL.match(written, start)
    if found is None:
        return 0
    head = _PARAMETER if found[0].startswith(b"p") else _ELEMENT
    if len(written) < found.end() + head.size:
        return 0
    fields = head.unpack_from(written, found.end())
    return found.end() + head.size + fields[0] if ids.intersection(fields) else 0


# --- Registers ---------------------------------------------------------------------------------


def _layout_registers(circuit: Any) -> set[Any]:
    """Return the registers whose bits a transpiled circuit had before, and has not now."""
    layout = getattr(circuit, "layout", None)
    mapping = getattr(layout, "input_qubit_mapping", None) or {}
    return {getattr(bit, "_register", None) for bit in mapping} - {None, *getattr(circuit, "qregs", ())}


def _sort_registers(written: bytes, registers: set[Any]) -> bytes:
    """Put the blocks of registers, which follow each other, in the order of their bytes."""
    blocks = sorted(_register_block(register) for register in registers)
    if len(blocks) < 2:  # noqa: PLR2004 - Of one there is one order.
        return written
    start = min(written.find(block) for block in blocks)
    end = start + sum(map(len, blocks))
    left, missing = written[start:end], list(blocks)
    while start >= 0 and missing and (first := next((block for block in missing if left.startswith(block)), b"")):
        missing.remove(first)
        left = left[len(first) :]
    return written if missing else written[:start] + b"".join(blocks) + written[end:]


def _register_block(register: Any) -> bytes:
    name: bytes = register.name.encode()
    head = _REGISTER.pack(b"q", True, register.size, len(name), True)  # noqa: FBT003
    return head + name + struct.pack(f"!{register.size}q", *[-1] * register.size)
