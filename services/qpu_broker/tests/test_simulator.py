from __future__ import annotations

import json
from typing import Any

import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit_ibm_runtime import RuntimeDecoder, RuntimeEncoder
from qonduit_qpu_broker.simulator.engine import Engine
from qonduit_qpu_broker.simulator.frames import SimulationReply, SimulationRequest


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(max_qubits=12)


def _run(
    engine: Engine, program: str, pubs: list[Any], *, noisy: bool = False, **options: Any
) -> tuple[SimulationReply, Any]:
    body = json.dumps({"params": {"pubs": pubs, "options": options}}, cls=RuntimeEncoder).encode()
    reply, result = engine.run(SimulationRequest(program, "ibm_torino", noisy), body)
    return reply, json.loads(result, cls=RuntimeDecoder) if reply.ok else result.decode()


def _ghz(qubits: int, width: int = 133) -> QuantumCircuit:
    circuit = QuantumCircuit(width, qubits)
    circuit.h(0)
    for qubit in range(qubits - 1):
        circuit.cx(qubit, qubit + 1)
    circuit.measure(range(qubits), range(qubits))
    return circuit


def test_idle_qubits_of_a_wide_device_cost_nothing(engine: Engine) -> None:
    reply, result = _run(engine, "sampler", [(_ghz(3), None, 200)])
    assert reply.ok
    assert set(result[0].data.c.get_counts()) == {"000", "111"}
    assert reply.charged_s > 200 * 250e-6, "each shot takes at least the device's repetition delay"


def test_the_same_seed_gives_the_same_counts(engine: Engine) -> None:
    counts = [
        _run(engine, "sampler", [(_ghz(3), None, 500)], simulator={"seed_simulator": 5})[1][0].data.c.get_counts()
        for _ in range(2)
    ]
    assert counts[0] == counts[1]


def test_shots_default_and_may_be_set_for_all_pubs(engine: Engine) -> None:
    assert _run(engine, "sampler", [(_ghz(2),)])[1][0].data.c.num_shots == 4096
    assert _run(engine, "sampler", [(_ghz(2),)], default_shots=7)[1][0].data.c.num_shots == 7


def test_a_sweep_in_a_dynamic_circuit_binds_every_point(engine: Engine) -> None:
    angle = Parameter("angle")
    circuit = QuantumCircuit(2, 2)
    circuit.x(0)
    circuit.measure(0, 0)
    with circuit.if_test((circuit.clbits[0], 1)):
        circuit.rx(angle, 1)
    circuit.measure(1, 1)
    pub = SamplerPub.coerce((circuit, [[0.0], [3.141592653589793]], 50))
    _, result = _run(engine, "sampler", [pub])
    assert [result[0].data.c[point].get_counts() for point in (0, 1)] == [{"01": 50}, {"11": 50}]


def test_too_many_qubits_are_refused_with_the_numbers_unless_all_is_clifford(engine: Engine) -> None:
    wide = _ghz(40)
    assert _run(engine, "sampler", [(wide, None, 10)])[0].ok
    wide.t(0)
    wide.measure(0, 0)
    reply, text = _run(engine, "sampler", [(wide, None, 10)])
    assert not reply.ok
    assert "uses 40 qubits; this simulator does at most 12" in reply.reason
    assert reply.reason == text
    assert reply.charged_s == 0


def test_noise_shows_and_the_ideal_device_has_none(engine: Engine) -> None:
    flipped = QuantumCircuit(133, 1)
    flipped.x(0)
    flipped.measure(0, 0)
    ideal = _run(engine, "sampler", [(flipped, None, 2000)])[1][0].data.c.get_counts()
    noisy = _run(engine, "sampler", [(flipped, None, 2000)], noisy=True)[1][0].data.c.get_counts()
    assert ideal == {"1": 2000}
    assert 50 < noisy["0"] < 1000, "qubit 0 of this device misreads one in six"


def test_an_estimator_knows_that_idle_qubits_are_zero(engine: Engine) -> None:
    circuit = QuantumCircuit(133)
    circuit.x(0)
    observables = [{"I" * 132 + "Z": 1.0}, {"Z" + "I" * 131 + "Z": 1.0}, {"X" + "I" * 132: 5.0}, {"I" * 133: 2.0}]
    observables.append({"0" + "I" * 131 + "1": 1.0})
    pub = EstimatorPub.coerce((circuit, observables, None, 0.001))
    _, result = _run(engine, "estimator", [pub])
    assert result[0].data.evs.tolist() == pytest.approx([-1, -1, 0, 2, 1], abs=0.01)
    assert result[0].data.stds.tolist() == [0.001] * 5
    assert result[0].metadata["shots"] == 100_000, "however fine the precision, trajectories are bounded"


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"params": {"pubs": [1]}}', b'{"params": {"pubs": [["x"]]}}', b'{"params": {}}'],
)
def test_nonsense_fails_the_job_and_not_the_simulator(engine: Engine, body: bytes) -> None:
    reply, text = engine.run(SimulationRequest("sampler", "ibm_torino", noisy=False), body)
    assert not reply.ok
    assert reply.reason
    assert text
    assert _run(engine, "sampler", [(_ghz(2), None, 1)])[0].ok


def test_what_is_not_simulated_is_said(engine: Engine) -> None:
    assert "kerneled" in _run(engine, "sampler", [(_ghz(2),)], execution={"meas_type": "kerneled"})[0].reason
    assert "calibrate" in _run(engine, "calibrate", [])[0].reason
