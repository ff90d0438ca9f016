"""Circuits arrive as they were: instructions, parameters, layout and all that hangs on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister, generate_preset_pass_manager
from qiskit.circuit import AncillaRegister, Clbit, Gate, Parameter, ParameterVector, Qubit
from qiskit.circuit.classical import expr, types
from qiskit.circuit.library import (
    AndGate,
    C4XGate,
    MCMTGate,
    PauliEvolutionGate,
    QFTGate,
    UnitaryGate,
    ZGate,
    efficient_su2,
    real_amplitudes,
)
from qiskit.circuit.random import random_circuit
from qiskit.quantum_info import Operator, SparsePauliOp
from qiskit_ibm_runtime.fake_provider import FakeTorino
from qonduit.program import pickling
from qonduit.program.serial import circuits

QPY = b"QISKIT"


def roundtrip(value: Any) -> Any:
    return pickling.loads(pickling.dumps(value))


def bell() -> QuantumCircuit:
    circuit = QuantumCircuit(2, 2, name="bell", metadata={"run": 3}, global_phase=0.25)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure([0, 1], [0, 1])
    return circuit


class OwnGate(Gate):
    """What a program would define."""

    def __init__(self, angle: float) -> None:
        super().__init__("own", 1, [angle])

    def _define(self) -> None:
        self.definition = QuantumCircuit(1)
        self.definition.rx(self.params[0], 0)


class OwnCircuit(QuantumCircuit):
    """A subclass with something of its own."""

    answer = 0


def test_a_circuit_travels_as_qpy_and_is_the_same_circuit() -> None:
    data = pickling.dumps(bell())
    assert QPY in data
    copy = pickling.loads(data)
    assert copy == bell()
    assert (copy.name, copy.metadata, copy.global_phase) == ("bell", {"run": 3}, 0.25)
    copy.x(0)
    with copy.if_test((copy.clbits[0], 1)):
        copy.x(1)
    assert len(copy.data) == len(bell().data) + 2


def test_circuits_of_one_value_are_one_payload() -> None:
    value = {"many": [bell() for _ in range(20)], "pair": (bell(), 3)}
    data = pickling.dumps(value)
    assert pickling.loads(data) == value
    assert len(data) < 20 * len(pickling.dumps(bell())) / 4


def test_one_circuit_at_two_places_stays_one() -> None:
    circuit = bell()
    copy = roundtrip([circuit, {"again": circuit}, bell()])
    assert copy[0] is copy[1]["again"]
    assert copy[0] is not copy[2]


def test_circuits_in_functions_and_objects_travel_too() -> None:
    circuit = bell()
    assert roundtrip(lambda: circuit)() == circuit


@pytest.mark.parametrize("seed", range(6))
def test_random_circuits(seed: int) -> None:
    circuit = random_circuit(6, 12, max_operands=4, measure=True, conditional=seed % 2 == 0, seed=seed)
    assert roundtrip(circuit) == circuit


@pytest.mark.parametrize("metadata", [{1: (2, 3)}, {"set": {1}}, {"array": np.arange(3)}, {"nested": {"a": [None]}}])
def test_metadata_keeps_its_types(metadata: dict[Any, Any]) -> None:
    circuit = QuantumCircuit(1, metadata=metadata)
    copy = roundtrip(circuit).metadata
    assert repr(copy) == repr(metadata)


def test_parameters_keep_their_identity_across_circuits_and_beside_them() -> None:
    theta = Parameter("theta")
    one, two = QuantumCircuit(1), QuantumCircuit(1)
    one.rx(theta, 0)
    two.rz(2 * theta, 0)
    first, second, parameter = roundtrip([one, two, theta])
    assert first.parameters == second.parameters == one.parameters
    assert first.assign_parameters({parameter: 0.5}).parameters == set()
    assert second.assign_parameters({theta: 0.5}) == two.assign_parameters({theta: 0.5})


def test_parameter_vectors_and_expressions() -> None:
    vector, phase = ParameterVector("v", 5), Parameter("phase")
    circuit = QuantumCircuit(2, global_phase=phase)
    circuit.rx(vector[0] * 2 + vector[1].sin() ** 2, 0)
    circuit.rzz((vector[2] - phase) / 3, 0, 1)
    circuit.u(vector[3].abs(), vector[4].exp(), 1.5, 1)
    copy = roundtrip(circuit)
    assert copy == circuit
    values = [0.1, 0.2, 0.3, 0.4, 0.5]
    bound = copy.assign_parameters({vector: values, phase: 0.7})
    assert Operator(bound).equiv(Operator(circuit.assign_parameters({vector: values, phase: 0.7})))
    ansatz = efficient_su2(4, reps=2)
    assert list(roundtrip(ansatz).parameters) == list(ansatz.parameters)


def test_control_flow_variables_and_expressions() -> None:
    register = ClassicalRegister(3, "c")
    circuit = QuantumCircuit(QuantumRegister(3, "q"), register)
    flag = circuit.add_var("flag", expr.lift(False))  # noqa: FBT003 - By position alone.
    given = circuit.add_input("given", types.Uint(8))
    circuit.measure(0, register[0])
    circuit.store(flag, expr.logic_not(register[0]))
    with circuit.if_test(expr.logic_and(flag, expr.less(given, 7))) as otherwise:
        circuit.x(1)
    with otherwise, circuit.for_loop(range(3), loop_parameter := Parameter("i")):
        circuit.rx(loop_parameter, 2)
        circuit.continue_loop()
    with circuit.while_loop((register, 2)):
        circuit.measure(2, register[2])
        circuit.break_loop()
    with circuit.switch(register) as case:
        with case(1, 2):
            circuit.h(0)
        with case(case.DEFAULT):
            circuit.z(0)
    data = pickling.dumps(circuit)
    copy = pickling.loads(data)
    assert copy == circuit
    assert list(copy.iter_vars()) == list(circuit.iter_vars())


def test_boxes_stretches_and_delays_with_units() -> None:
    circuit = QuantumCircuit(2)
    stretch = circuit.add_stretch("s")
    circuit.delay(stretch, 0)
    circuit.delay(12, 0)
    circuit.delay(1.5, 1, unit="us")
    with circuit.box(label="here"):
        circuit.cx(0, 1)
    copy = roundtrip(circuit)
    assert [inst.operation.name for inst in copy.data] == ["delay", "delay", "delay", "box"]
    assert [(inst.operation.duration, inst.operation.unit) for inst in copy.data[1:3]] == [(12, "dt"), (1.5, "us")]
    assert copy == circuit


@pytest.mark.parametrize(
    "gate",
    [
        OwnGate(0.3),
        bell().remove_final_measurements(inplace=False).to_gate(label="L"),
        bell().to_instruction(),
        bell().remove_final_measurements(inplace=False).to_gate().control(2, ctrl_state=1),
        OwnGate(0.3).control(),
        UnitaryGate(np.eye(4)),
        PauliEvolutionGate(SparsePauliOp(["XX", "ZI"], [0.5, 0.25]), 0.3),
        QFTGate(3),
        C4XGate(),
        AndGate(2),
        MCMTGate(ZGate(), 2, 1),
        Gate("opaque", 2, [1, 2.5]),
    ],
    ids=lambda gate: type(gate).__name__,
)
def test_a_gate_keeps_its_class_and_meaning(gate: Any) -> None:
    circuit = QuantumCircuit(gate.num_qubits, gate.num_clbits)
    circuit.append(gate, circuit.qubits, circuit.clbits)
    copy = roundtrip(circuit).data[0].operation
    assert type(copy) is type(gate)
    assert (copy.name, copy.label) == (gate.name, gate.label)
    assert roundtrip(circuit) == circuit


def test_bits_and_registers_of_every_kind() -> None:
    loose, ancillas = [Qubit(), Qubit()], AncillaRegister(2, "a")
    alias = QuantumRegister(name="alias", bits=[loose[1], ancillas[0]])
    circuit = QuantumCircuit(loose, ancillas, alias, [Clbit()])
    circuit.cx(loose[0], ancillas[1])
    copy, bit = roundtrip((circuit, loose[0]))
    assert copy == circuit
    assert copy.ancillas == circuit.ancillas
    assert copy.find_bit(bit).index == 0
    half = QuantumCircuit(QuantumRegister(4, "q")[1:3])
    half.h(0)
    copy = roundtrip(half)
    assert copy == half
    assert copy.qubits == half.qubits


def test_a_subclass_stays_one_with_what_it_holds() -> None:
    circuit = OwnCircuit(2)
    circuit.answer = 42
    circuit.h(0)
    copy = roundtrip(circuit)
    assert (type(copy), copy.answer) == (OwnCircuit, 42)
    assert copy == circuit
    ansatz = real_amplitudes(3)
    assert roundtrip(ansatz) == ansatz


@pytest.mark.parametrize("level", [0, 1, 3])
def test_a_transpiled_circuit_keeps_its_layout(level: int) -> None:
    passes = generate_preset_pass_manager(level, backend=FakeTorino(), seed_transpiler=7)
    circuit = random_circuit(8, 6, max_operands=2, seed=5)
    isa = passes.run(circuit)
    data = pickling.dumps(isa)
    copy = pickling.loads(data)
    assert copy == isa
    assert copy.layout == isa.layout
    for read in ("initial_index_layout", "final_index_layout", "routing_permutation", "initial_virtual_layout"):
        assert getattr(copy.layout, read)() == getattr(isa.layout, read)()
    observable = SparsePauliOp("Z" * 8)
    assert observable.apply_layout(copy.layout) == observable.apply_layout(isa.layout)
    again = roundtrip(copy)
    assert again.layout == isa.layout
    assert len(data) < 32 * 1024


def test_a_scheduled_circuit_keeps_its_times() -> None:
    passes = generate_preset_pass_manager(1, backend=FakeTorino(), seed_transpiler=7, scheduling_method="alap")
    isa = passes.run(bell())
    copy = roundtrip(isa)
    assert copy.op_start_times == isa.op_start_times
    assert copy == isa


def test_a_circuit_that_qpy_refuses_leaves_the_others_in_qpy(monkeypatch: pytest.MonkeyPatch) -> None:
    dump = circuits._dump()

    def refuse_h(shells: Any, buffer: Any) -> None:
        if any("h" in shell.count_ops() for shell in shells):
            raise TypeError("not this one")
        dump(shells, buffer)

    monkeypatch.setattr(circuits, "_dump", lambda: refuse_h)
    plain = QuantumCircuit(1)
    plain.x(0)
    data = pickling.dumps([bell(), plain])
    assert QPY in data
    assert pickling.loads(data) == [bell(), plain]
