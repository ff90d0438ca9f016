"""What a circuit uses: qubits, gates, and how long it would take on the device."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qiskit.circuit import ControlFlowOp

from qonduit_qpu_broker.simulator.refusals import TooWideError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qiskit.circuit import CircuitInstruction, QuantumCircuit

    GateLength = Callable[[str, tuple[int, ...]], float]

_PASSIVE = frozenset({"barrier", "delay"})
_CLIFFORD = frozenset(
    {"id", "x", "y", "z", "h", "s", "sdg", "sx", "sxdg", "cx", "cy", "cz", "swap", "ecr", "measure", "reset"} | _PASSIVE
)
_CLIFFORD_AT_RIGHT_ANGLES = frozenset({"rz", "rx", "ry", "p"})
_ANGLE_TOLERANCE = 1e-9


def active_qubits(circuit: QuantumCircuit) -> tuple[int, ...]:
    """Return the indices of qubits on which something happens."""
    index = {bit: number for number, bit in enumerate(circuit.qubits)}
    return tuple(
        sorted({index[bit] for step in circuit.data if step.operation.name not in _PASSIVE for bit in step.qubits})
    )


def is_clifford(circuit: QuantumCircuit) -> bool:
    """Whether a stabilizer simulation is exact for this circuit, which it then is at any width."""
    return not circuit.parameters and all(_is_clifford_step(step) for step in circuit.data)


def _is_clifford_step(step: CircuitInstruction) -> bool:
    name = step.operation.name
    if name in _CLIFFORD:
        return True
    if name not in _CLIFFORD_AT_RIGHT_ANGLES:
        return False
    quarters = float(step.operation.params[0]) / (math.pi / 2)
    return abs(quarters - round(quarters)) < _ANGLE_TOLERANCE


def check_width(circuit: QuantumCircuit, max_qubits: int) -> None:
    """Raise TooWideError when a circuit's state can't be held."""
    used = len(active_qubits(circuit))
    if used > max_qubits and not is_clifford(circuit):
        raise TooWideError(
            f"A circuit uses {used} qubits; this simulator does at most {max_qubits} "
            "(any number when all gates are Clifford gates). Use fewer qubits or a real device."
        )


def duration_s(circuit: QuantumCircuit, gate_length: GateLength) -> float:
    """Return the seconds of a circuit's longest path, with the device's own gate lengths.

    Of the branches of a control-flow operation the longest counts, once.
    """
    index = {bit: number for number, bit in enumerate(circuit.qubits)}
    free_at = [0.0] * circuit.num_qubits
    for step in circuit.data:
        qubits = tuple(index[bit] for bit in step.qubits)
        if not qubits:
            continue
        begin = max(free_at[qubit] for qubit in qubits)
        end = begin + _step_duration_s(step, qubits, gate_length)
        for qubit in qubits:
            free_at[qubit] = end
    return max(free_at, default=0.0)


def _step_duration_s(step: CircuitInstruction, qubits: tuple[int, ...], gate_length: GateLength) -> float:
    operation = step.operation
    if not isinstance(operation, ControlFlowOp):
        return 0.0 if operation.name in _PASSIVE else gate_length(operation.name, qubits)

    def inner(name: str, local: tuple[int, ...]) -> float:
        return gate_length(name, tuple(qubits[number] for number in local))

    return max((duration_s(block, inner) for block in operation.blocks), default=0.0)
