"""One small job of each kind, so that the first real one finds everything loaded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from qiskit import QuantumCircuit
from qiskit_ibm_runtime import RuntimeEncoder

from qonduit_qpu_broker.simulator.frames import SimulationRequest

if TYPE_CHECKING:
    from qonduit_qpu_broker.simulator.engine import Engine

_DEVICE = "ibm_torino"


def warm_up(engine: Engine) -> None:
    """Run a sampler and an estimator job of one qubit."""
    circuit = QuantumCircuit(1)
    circuit.sx(0)
    measured = circuit.measure_all(inplace=False)
    for program, pub in (("sampler", (measured, None, 1)), ("estimator", (circuit, {"Z": 1.0}, None, 0.5))):
        body = json.dumps({"params": {"pubs": [pub]}}, cls=RuntimeEncoder).encode()
        engine.run(SimulationRequest(program=program, backend=_DEVICE, noisy=False), body)
