"""Packed instructions: what comes back is what was there, and what cannot be held is said not to be."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import qonduit_circuit_codec
from qiskit import QuantumCircuit, generate_preset_pass_manager
from qiskit.circuit import Delay, Gate, Measure, Parameter, Reset
from qiskit.circuit.library import (
    CXGate,
    RZGate,
    UnitaryGate,
    XGate,
    XXPlusYYGate,
    get_standard_gate_name_mapping,
)
from qiskit.circuit.random import random_circuit
from qiskit.providers.fake_provider import GenericBackendV2
from qonduit_circuit_codec import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable

    Unpack = Callable[[Any, bytes], None]

pytestmark = pytest.mark.skipif(
    qonduit_circuit_codec._extension() is None, reason="no C compiler was there when the package was installed"
)


@pytest.fixture(params=["extension", "without extension"])
def read(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Unpack:
    """Both ways to read what the extension packed."""
    if request.param == "extension":
        return unpack

    def read_without(data: Any, made: bytes) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(qonduit_circuit_codec, "_extension", lambda: None)
            unpack(data, made)

    return read_without


def packed(circuit: QuantumCircuit) -> bytes | None:
    return pack(circuit._data)


def through(circuit: QuantumCircuit, read: Unpack) -> QuantumCircuit:
    again = circuit.copy_empty_like()
    made = packed(circuit)
    assert made is not None
    read(again._data, made)
    return again


def gates() -> list[Gate]:
    """One of each of Qiskit's own gates, with numbers for parameters."""
    found = []
    for gate in get_standard_gate_name_mapping().values():
        if isinstance(gate, Gate):
            numbers = [0.1 * number - math.pi for number in range(len(gate.params))]
            found.append(type(gate)(*numbers) if numbers else gate)
    return found


@pytest.mark.parametrize("gate", gates(), ids=lambda gate: gate.name)
def test_each_gate_comes_back_as_it_was_or_is_refused(gate: Gate, read: Unpack) -> None:
    circuit = QuantumCircuit(gate.num_qubits + 2)
    circuit.append(gate, range(gate.num_qubits, 0, -1))
    if packed(circuit) is None:
        assert gate.num_qubits != 1, "every gate of one qubit is held"
        return
    again = through(circuit, read)
    assert again == circuit
    assert type(again.data[0].operation) is type(gate)
    assert again.data[0].operation.params == gate.params


def test_a_circuit_for_a_device_comes_back_as_it_was(read: Unpack) -> None:
    backend = GenericBackendV2(9, seed=1)
    circuit = random_circuit(7, 20, measure=True, reset=True, max_operands=3, seed=4)
    circuit.barrier(0, 3, 5)
    circuit.global_phase = 0.3
    transpiled = generate_preset_pass_manager(1, backend=backend, seed_transpiler=1).run(circuit)
    assert through(transpiled, read) == transpiled


@pytest.mark.parametrize("value", [0.1, -0.0, 1e-320, math.inf, 2**53 + 0.0])
def test_parameters_keep_every_bit(value: float, read: Unpack) -> None:
    circuit = QuantumCircuit(1)
    circuit.rz(value, 0)
    (again,) = through(circuit, read).data[0].operation.params
    assert again == value
    assert math.copysign(1, again) == math.copysign(1, value)


def test_labels_come_back(read: Unpack) -> None:
    circuit = QuantumCircuit(2, 1)
    circuit.x(0)
    circuit.append(XGate(label="mine"), [0])
    circuit.append(RZGate(0.1, label="Drehung um ½"), [1])
    circuit.append(XXPlusYYGate(0.1), [0, 1])  # It has a label of its own.
    circuit.append(CXGate(label=""), [1, 0])
    circuit.barrier(label="wait")
    circuit.append(Measure(label="read"), [0], [0])
    circuit.append(Reset(label="again"), [1])
    again = through(circuit, read)
    assert again == circuit
    labels = [instruction.operation.label for instruction in again.data]
    assert labels == [None, "mine", "Drehung um ½", "(XX+YY)", "", "wait", "read", "again"]
    assert [type(one.operation) for one in again.data] == [type(one.operation) for one in circuit.data]


def test_labels_find_their_instructions_behind_others(read: Unpack) -> None:
    circuit = QuantumCircuit(1)
    circuit.append(XGate(label="mine"), [0])
    made = packed(circuit)
    assert made is not None
    read(circuit._data, made)
    assert [instruction.operation.label for instruction in circuit.data] == ["mine", "mine"]


def custom(circuit: QuantumCircuit) -> None:
    circuit.append(Gate("cx", 2, []), [0, 1])  # The name alone is a standard gate's.


@pytest.mark.parametrize(
    "add",
    [
        custom,
        lambda circuit: circuit.rz(Parameter("a"), 0),
        lambda circuit: circuit.cx(0, 1, ctrl_state=0),
        lambda circuit: circuit.append(UnitaryGate([[0, 1], [1, 0]]), [0]),
        lambda circuit: circuit.append(Delay(10), [0]),
        lambda circuit: circuit.if_test((circuit.clbits[0], True), QuantumCircuit(1), [0], []),
    ],
    ids=["custom", "symbol", "open control", "matrix", "delay", "if"],
)
def test_what_the_bytes_have_no_room_for_is_refused(add: Callable[[QuantumCircuit], object]) -> None:
    circuit = QuantumCircuit(2, 1)
    circuit.x(0)
    add(circuit)
    assert packed(circuit) is None


def test_bytes_of_another_circuit_or_none_at_all_are_refused(read: Unpack) -> None:
    wide = QuantumCircuit(5, 5)
    wide.cx(3, 4)
    wide.barrier(1, 4)
    wide.measure(4, 4)
    made = packed(wide)
    assert made is not None
    for circuit in (QuantumCircuit(4, 5), QuantumCircuit(5, 2)):
        with pytest.raises(ValueError, match="not the packed instructions"):
            read(circuit._data, made)
    labelled = QuantumCircuit(1)
    labelled.append(XGate(label="mine"), [0])
    with_label = packed(labelled)
    assert with_label is not None
    far, long = with_label[:-20] + b"\7" + with_label[-19:], with_label[:-12] + b"\7" + with_label[-11:]
    for broken in (b"", made[:-1], made + b"x", b"\xff" * 32, bytes([255] * len(made)), far, long):
        with pytest.raises(ValueError, match="not the packed instructions"):
            read(QuantumCircuit(5, 5)._data, broken)


def test_without_the_extension_nothing_is_packed_and_all_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    circuit = QuantumCircuit(2, 2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure([0, 1], [1, 0])
    made = packed(circuit)
    assert made is not None
    monkeypatch.setattr(qonduit_circuit_codec, "_extension", lambda: None)
    assert packed(circuit) is None
    again = circuit.copy_empty_like()
    unpack(again._data, made)
    assert again == circuit
