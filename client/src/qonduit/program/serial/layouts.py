"""Layouts of transpiled circuits, as numbers of registers and bits instead of one object a bit."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

from qiskit.circuit import QuantumRegister, Qubit
from qiskit.transpiler.layout import Layout, TranspileLayout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Bits = tuple[bytes, bytes]


class _UnownedBitError(Exception):
    """A bit belongs to no register, or to one that a program made of other bits."""


def reduce_layout(layout: TranspileLayout) -> tuple[Callable[..., TranspileLayout], tuple[Any, ...]] | None:
    """Return how to make a layout again, or None for one whose bits are not those of plain registers."""
    if set(layout.__dict__) != _FIELDS or type(layout) is not TranspileLayout:
        return None
    numbering = _Numbering()
    try:
        initial = numbering.layout(layout.initial_layout)
        mapping = numbering.mapping(layout.input_qubit_mapping)
        final = numbering.layout(layout.final_layout)
        outputs = layout._output_qubit_list  # noqa: SLF001 - A public dataclass field of Qiskit's in all but name.
        output = None if outputs is None else numbering.bits(outputs)
    except (_UnownedBitError, AttributeError, TypeError, OverflowError):
        return None
    count = layout._input_qubit_count  # noqa: SLF001
    return restore_layout, (numbering.registers, (initial, mapping, final, count, output))


def restore_layout(registers: list[QuantumRegister], fields: tuple[Any, ...]) -> TranspileLayout:
    """Make a layout of what `reduce_layout` gave."""
    initial, mapping, final, count, output = fields
    bits = [list(register) for register in registers]
    return TranspileLayout(
        initial_layout=_layout(registers, bits, initial),
        input_qubit_mapping=None if mapping is None else _mapping(bits, mapping),
        final_layout=_layout(registers, bits, final),
        _input_qubit_count=count,
        _output_qubit_list=None if output is None else _bits(bits, output),
    )


_FIELDS = frozenset(TranspileLayout.__dataclass_fields__)


class _Numbering:
    """Gives each register that comes up a number."""

    def __init__(self) -> None:
        self.registers: list[QuantumRegister] = []
        self._numbers: dict[QuantumRegister, int] = {}
        self._places: dict[Qubit, tuple[int, int]] = {}

    def bits(self, bits: Iterable[Qubit]) -> Bits:
        places = [self._places.get(bit) or self._place(bit) for bit in bits]
        return array("H", [place[0] for place in places]).tobytes(), array("H", [p[1] for p in places]).tobytes()

    def mapping(self, mapping: Mapping[Qubit, int] | None) -> tuple[Bits, bytes] | None:
        return None if mapping is None else (self.bits(mapping), array("H", mapping.values()).tobytes())

    def layout(self, layout: Layout | None) -> tuple[Bits, bytes, bytes, list[int]] | None:
        if layout is None:
            return None
        physical, virtual = layout.get_physical_bits(), layout.get_virtual_bits()
        if type(layout) is not Layout or len(physical) != len(virtual):
            raise _UnownedBitError
        registers = [self._register(register) for register in layout._regs]  # noqa: SLF001 - A set would lose the order.
        order = array("H", virtual.values()).tobytes()
        return self.bits(physical.values()), array("H", physical).tobytes(), order, registers

    def _place(self, bit: Qubit) -> tuple[int, int]:
        register = bit._register  # noqa: SLF001 - Nothing public tells.
        if type(bit) is not Qubit or register is None:
            raise _UnownedBitError
        number = self._register(register)
        # All bits of a register at once: asking each for its register takes three times as long.
        self._places.update((own, (number, index)) for index, own in enumerate(register))
        return self._places[bit]

    def _register(self, register: QuantumRegister) -> int:
        if type(register) is not QuantumRegister:
            raise _UnownedBitError
        number = self._numbers.setdefault(register, len(self.registers))
        if number == len(self.registers):
            self.registers.append(register)
        return number


def _numbers(data: bytes) -> array[int]:
    numbers = array("H")
    numbers.frombytes(data)
    return numbers


def _bits(bits: list[list[Qubit]], numbered: Bits) -> list[Qubit]:
    return [bits[register][index] for register, index in zip(*map(_numbers, numbered), strict=True)]


def _mapping(bits: list[list[Qubit]], numbered: tuple[Bits, bytes]) -> dict[Qubit, int]:
    return dict(zip(_bits(bits, numbered[0]), _numbers(numbered[1]), strict=True))


def _layout(registers: list[QuantumRegister], bits: list[list[Qubit]], numbered: Any) -> Layout | None:
    if numbered is None:
        return None
    places, indices, order, own = numbered
    layout = Layout()
    physical = dict(zip(_numbers(indices), _bits(bits, places), strict=True))
    layout._p2v = physical  # noqa: SLF001 - What its own copy sets; setting bit by bit takes ten times as long.
    layout._v2p = {physical[index]: index for index in _numbers(order)}  # noqa: SLF001
    layout._regs = [registers[number] for number in own]  # noqa: SLF001
    return layout
