"""The executor program, simulated with the client's own local runner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ibm_quantum_schemas.common import CompressedTensorModel  # type: ignore[import-untyped]
from ibm_quantum_schemas.executor.version_2_0 import ParamsModel  # type: ignore[import-untyped]
from qiskit_ibm_runtime.fake_provider.executor.run_quantum_program import run_quantum_program
from qiskit_ibm_runtime.options_models.simulator import SimulatorOptions
from qiskit_ibm_runtime.quantum_program.params_converters import QUANTUM_PROGRAM_PARAMS_CONVERTERS

from qonduit_qpu_broker.simulator.circuits import check_width, duration_s
from qonduit_qpu_broker.simulator.refusals import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qonduit_qpu_broker.simulator.engine import Session

SCHEMA = "v2.0"


def run_executor(params: Mapping[str, Any], session: Session) -> tuple[dict[str, Any], float]:
    """Return the result of an executor job, as its schema words it, and its modelled seconds on the device."""
    if params.get("schema_version") != SCHEMA:
        raise UnsupportedError(
            f"Executor schema {params.get('schema_version')!r} is not simulated here; "
            f"use a qiskit-ibm-runtime that sends {SCHEMA}."
        )
    model = ParamsModel.model_validate(params)
    program, _options = QUANTUM_PROGRAM_PARAMS_CONVERTERS[SCHEMA].decoder(model)
    if program.meas_level not in {None, "classified"}:
        raise UnsupportedError(f"meas_level {program.meas_level!r} is not simulated here; use 'classified'.")
    charged = 0.0
    for item in program.items:
        if not item.circuit.parameters:
            # Randomized circuits are Clifford at all their points, or Aer itself refuses what has no room.
            check_width(item.circuit, session.max_qubits)
        if hasattr(item, "samplex"):
            item.samplex.finalize()
        once = duration_s(item.circuit, session.device.gate_length_s) + session.device.rep_delay_s
        size = 1
        for length in item.shape:
            size *= length
        charged += program.shots * size * once
    simulator = session.simulator_for([item.circuit for item in program.items])
    simulator.set_max_qubits(session.device.qubits)
    result = run_quantum_program(simulator, program, SimulatorOptions(seed_simulator=session.seed))
    return _encode(result, params), charged


def _encode(result: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    program = params["quantum_program"]
    return {
        "schema_version": SCHEMA,
        "data": [
            {
                "results": {
                    name: CompressedTensorModel.from_numpy(array).model_dump(mode="json")
                    for name, array in dict(item).items()
                },
                "metadata": {"scheduler_timing": None, "stretch_values": None},
            }
            for item in result
        ],
        "metadata": {"chunk_timing": []},
        "passthrough_data": program.get("passthrough_data"),
        "semantic_role": program.get("semantic_role"),
    }
