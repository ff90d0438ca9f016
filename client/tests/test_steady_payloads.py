"""What the runtime client posts for the same program is the same each time, and still is the circuit."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest
from ibm_quantum_schemas.common.qpy import QpyDataModel
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister
from qiskit.circuit import Parameter, ParameterVector
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime.fake_provider import FakeManilaV2
from qiskit_ibm_runtime.json import SERVICE_MAX_SUPPORTED_QPY_VERSION, RuntimeDecoder, RuntimeEncoder
from qonduit.program.steady_payloads import steady_payloads


def circuits() -> list[QuantumCircuit]:
    """Return some with parameters, expressions and layouts."""
    theta, eta, phi = Parameter("theta"), Parameter("η"), ParameterVector("phi", 12)
    made = QuantumCircuit(QuantumRegister(2, "left"), QuantumRegister(1, "right"), ClassicalRegister(3, "c"))
    made.h(0)
    made.cx(0, 1)
    made.rx(theta * phi[1] + phi[11] - eta, 0)
    made.rz(phi[2], 1)
    made.ry(sum(phi), 2)
    with made.if_test((made.cregs[0], 1)):
        made.rx(eta + theta, 0)
    made.global_phase = theta + eta
    made.measure([0, 1, 2], [0, 1, 2])
    pass_manager = generate_preset_pass_manager(optimization_level=1, backend=FakeManilaV2(), seed_transpiler=1)
    bell = QuantumCircuit(2)
    bell.h(0)
    bell.cx(0, 1)
    bell.measure_all()
    return [pass_manager.run(made), made, pass_manager.run(bell), bell]


def posted() -> list[str]:
    """Return what tells apart what is posted, also by the executor primitives."""
    steady_payloads()
    digests = []
    for circuit in circuits():
        text = json.dumps([circuit, *circuit.parameters], cls=RuntimeEncoder)
        digests.append(hashlib.sha256(text.encode()).hexdigest())
        model = QpyDataModel.from_python([circuit], SERVICE_MAX_SUPPORTED_QPY_VERSION)
        digests.append(hashlib.sha256(model.b64_data.encode()).hexdigest())
    return digests


@pytest.mark.slow
def test_each_process_posts_the_same() -> None:
    code = f"import runpy; print(*runpy.run_path({__file__!r})['posted']())"
    command = [sys.executable, "-c", code]
    environment = {"PYTHONHASHSEED": "0"}
    one, other = (subprocess.check_output(command, env=environment, text=True) for _ in range(2))
    assert one == other
    assert len(set(one.split())) == 8


def test_what_is_posted_is_the_circuit() -> None:
    steady_payloads()
    for circuit in circuits():
        again: QuantumCircuit = json.loads(json.dumps(circuit, cls=RuntimeEncoder), cls=RuntimeDecoder)
        names = [parameter.name for parameter in circuit.parameters]
        assert [parameter.name for parameter in again.parameters] == names
        values = [0.1 * number for number in range(len(names))]
        assert again.assign_parameters(values) == circuit.assign_parameters(values)
        assert again.layout == circuit.layout
