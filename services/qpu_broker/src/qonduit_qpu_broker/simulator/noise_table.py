"""The errors of all of a device's gates as a table of numbers: quicker to load than to make again.

An error is a list of small circuits with their probabilities, tens of thousands on a large device, of which a few
hundred or thousand are different. A table names each of these once, by its instructions, and the errors by numbers.
To read one executes nothing: names of instructions come from a short list, and all else is numbers.
"""

from __future__ import annotations

import io
import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from qiskit.circuit import CircuitInstruction, Instruction, QuantumCircuit, Qubit, Reset
from qiskit.circuit.library import IGate, PauliGate, XGate, YGate, ZGate
from qiskit_aer.noise import QuantumError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    NamedError = tuple[str, tuple[int, ...], QuantumError]
    """A gate, the qubits it is used on, its error."""
    Step = tuple[int, int, int]
    """Numbers of an instruction and its one or two qubits; `_NONE` where there is no second."""

_PLAIN = {"id": IGate, "x": XGate, "y": YGate, "z": ZGate, "reset": Reset}
_MAX_QUBITS = 2
_NONE = -1
_SUM_TOLERANCE = 1e-6


class UntabledError(Exception):
    """A noise model holds what this form of table can't."""


class BadTableError(Exception):
    """What was to be read is no table."""


class KeptError(QuantumError):  # type: ignore[misc,unused-ignore]
    """An error that was made before, and is taken as it was: not ideal, and with probabilities that add up."""

    def __init__(self, circuits: Sequence[QuantumCircuit], probabilities: Sequence[float]) -> None:
        super().__init__(list(zip(circuits, probabilities, strict=True)))
        self._kept = list(probabilities)

    @property
    def probabilities(self) -> list[float]:
        """Return the probabilities to the last bit: those of the base class are divided by their sum once more."""
        return self._kept

    def ideal(self) -> bool:
        """Return False: what is ideal is in no table, and to find out again takes longer than to load it."""
        return False


class TableWriter:
    """Collects errors, and finds those of their circuits and instructions that are the same."""

    def __init__(self) -> None:
        self._gates: dict[str, int] = {}
        self._instructions: dict[tuple[str, str, bytes], int] = {}
        self._circuits: dict[tuple[int, tuple[Step, ...]], int] = {}
        self._errors: list[tuple[int, int, int, int]] = []
        self._terms: list[int] = []
        self._probabilities: list[float] = []

    def add(self, named: Iterable[NamedError]) -> None:
        """Take errors in the order in which a model has them; raises UntabledError."""
        for gate, qubits, error in named:
            if error.ideal():
                continue  # A noise model leaves those out.
            if error.num_qubits > _MAX_QUBITS:
                raise UntabledError(f"{gate} has an error of {error.num_qubits} qubits")
            self._terms += [self._circuit(circuit) for circuit in error.circuits]
            self._probabilities += [float(probability) for probability in error.probabilities]
            number = self._gates.setdefault(gate, len(self._gates))
            self._errors.append((number, *_pair(qubits), len(self._terms)))

    def _circuit(self, circuit: QuantumCircuit) -> int:
        if circuit.global_phase or circuit.num_clbits:
            raise UntabledError("a circuit has a phase or classical bits")
        steps = tuple(
            (self._instruction(step.operation), *_pair([circuit.find_bit(bit).index for bit in step.qubits]))
            for step in circuit.data
        )
        return self._circuits.setdefault((circuit.num_qubits, steps), len(self._circuits))

    def _instruction(self, operation: Any) -> int:
        label, matrices = "", b""
        if operation.name == "pauli":
            label = operation.params[0]
        elif operation.name == "kraus" and operation.num_qubits == 1:
            matrices = np.array(operation.params, dtype=np.complex128).tobytes()
        elif operation.name not in _PLAIN:
            raise UntabledError(f"{operation.name} on {operation.num_qubits} qubits is not kept")
        return self._instructions.setdefault((operation.name, label, matrices), len(self._instructions))

    def packed(self) -> bytes:
        """Return the table."""
        names = {"gates": list(self._gates), "instructions": [(name, label) for name, label, _ in self._instructions]}
        steps = [step for _, found in self._circuits for step in found]
        matrices = [np.frombuffer(found, np.complex128).reshape(-1, 2, 2) for _, _, found in self._instructions]
        packed = io.BytesIO()
        np.savez_compressed(
            packed,
            names=np.frombuffer(json.dumps(names).encode(), np.uint8),
            matrices=np.concatenate([np.empty((0, 2, 2), np.complex128), *matrices]),
            matrix_ends=np.cumsum([len(found) for found in matrices], dtype=np.int32),
            widths=np.array([width for width, _ in self._circuits], np.int32),
            steps=np.array(steps, np.int32).reshape(-1, 3),
            step_ends=np.cumsum([len(found) for _, found in self._circuits], dtype=np.int32),
            errors=np.array(self._errors, np.int32).reshape(-1, 4),
            terms=np.array(self._terms, np.int32),
            probabilities=np.array(self._probabilities, np.float64),
        )
        return packed.getvalue()


class NoiseTable:
    """A table that was read; makes the errors of some qubits, and each circuit once."""

    def __init__(self, packed: bytes) -> None:
        """Read a table; raises BadTableError."""
        try:
            with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
                self._arrays = dict(arrays)
            names = json.loads(self._arrays["names"].tobytes())
            self._gates: list[str] = names["gates"]
            self._instructions = self._read_instructions(names["instructions"])
            self._check()
        except Exception as error:
            # Damage shows in any way: as no archive, no number, a size that there is no memory for.
            raise BadTableError(f"{type(error).__name__}: {error}") from error
        self._qubits = [Qubit() for _ in range(_MAX_QUBITS)]
        self._steps: dict[Step, CircuitInstruction] = {}
        self._circuits: dict[int, QuantumCircuit] = {}

    def errors(self, active: frozenset[int]) -> Iterator[NamedError]:
        """Return the errors of gates between qubits in use, in the order in which they were added."""
        begin = 0
        for gate, first, second, end in self._arrays["errors"].tolist():
            qubits = _one_or_two(first, second)
            if active.issuperset(qubits):
                circuits = [self._circuit(number) for number in self._arrays["terms"][begin:end].tolist()]
                yield self._gates[gate], qubits, KeptError(circuits, self._arrays["probabilities"][begin:end].tolist())
            begin = end

    def _circuit(self, number: int) -> QuantumCircuit:
        if number not in self._circuits:
            begin = int(self._arrays["step_ends"][number - 1]) if number else 0
            steps = self._arrays["steps"][begin : self._arrays["step_ends"][number]].tolist()
            self._circuits[number] = QuantumCircuit.from_instructions(
                [self._step((instruction, first, second)) for instruction, first, second in steps],
                qubits=self._qubits[: self._arrays["widths"][number]],
            )
        return self._circuits[number]

    def _step(self, step: Step) -> CircuitInstruction:
        if step not in self._steps:
            qubits = [self._qubits[number] for number in _one_or_two(*step[1:])]
            self._steps[step] = CircuitInstruction(self._instructions[step[0]], qubits)
        return self._steps[step]

    def _read_instructions(self, names: Sequence[tuple[str, str]]) -> list[Instruction]:
        ends = [0, *self._arrays["matrix_ends"].tolist()]
        matrices = [list(self._arrays["matrices"][begin:end]) for begin, end in pairwise(ends)]
        return [_instruction(name, label, found) for (name, label), found in zip(names, matrices, strict=True)]

    def _check(self) -> None:
        """Raise ValueError for numbers that lead nowhere: a job must not find out."""
        found = self._arrays
        _within(found["terms"], len(found["widths"]))
        _within(found["widths"], _MAX_QUBITS + 1)
        _within(found["errors"][:, 0], len(self._gates))
        _within(found["steps"][:, 0], len(self._instructions))
        _within(found["steps"][:, 1], _MAX_QUBITS)
        _within(found["steps"][:, 2] + 1, _MAX_QUBITS + 1)
        _partition(found["step_ends"], len(found["steps"]), parts=len(found["widths"]))
        _partition(found["errors"][:, 3], len(found["terms"]), parts=len(found["errors"]))
        if found["probabilities"].shape != found["terms"].shape or not (found["probabilities"] > 0).all():
            raise ValueError("an error has circuits without a probability")
        if found["terms"].size:
            sums = np.add.reduceat(found["probabilities"], [0, *found["errors"][:-1, 3]])
            if not np.allclose(sums, 1, rtol=0, atol=_SUM_TOLERANCE):
                raise ValueError("an error's probabilities don't add up to 1")


def _within(numbers: NDArray[Any], length: int) -> None:
    if numbers.dtype.kind != "i" or ((numbers < 0) | (numbers >= length)).any():
        raise ValueError("a number leads out of its list")


def _partition(ends: NDArray[Any], length: int, *, parts: int) -> None:
    if len(ends) != parts or (np.diff(ends, prepend=0) <= 0).any() or (parts and ends[-1] != length):
        raise ValueError("a list is not cut into its parts")


def _instruction(name: str, label: str, matrices: list[NDArray[np.complex128]]) -> Instruction:
    if name == "pauli":
        return PauliGate(label)
    if name == "kraus":
        return Instruction("kraus", 1, 0, matrices)
    return _PLAIN[name]()


def _pair(qubits: Sequence[int]) -> tuple[int, int]:
    return (qubits[0], qubits[1] if len(qubits) > 1 else _NONE)


def _one_or_two(first: int, second: int) -> tuple[int, ...]:
    return (first,) if second == _NONE else (first, second)
