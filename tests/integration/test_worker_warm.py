"""Programs that start from interpreters which have loaded Qiskit, and transpiled once, before they came."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from qonduit_service_kit.messages import Shape
from qonduit_worker.settings import WorkerSettings
from scripted_cluster import MIB, ScriptedCluster

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import sys, threading, time
loaded = [name for name in ("qiskit", "qiskit_ibm_runtime", "numpy") if name in sys.modules]
from qiskit import QuantumCircuit, generate_preset_pass_manager
from qiskit_ibm_runtime.fake_provider import FakeTorino
from qiskit_serverless import get_arguments, save_result
begun = time.monotonic()
circuit = get_arguments()["circuit"]
done = generate_preset_pass_manager(optimization_level=1, backend=FakeTorino()).run([circuit] * 4)
save_result({"loaded": loaded, "qubits": done[0].num_qubits, "circuit": circuit})
"""


async def test_programs_find_qiskit_loaded_and_transpile_with_one_thread_and_several(
    bus_url: str, tmp_path: Path
) -> None:
    from qiskit import QuantumCircuit  # noqa: PLC0415 - Only this test pays for it.
    from qonduit import encoding  # noqa: PLC0415

    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    preload = json.dumps(WorkerSettings.model_fields["preload"].default)
    async with ScriptedCluster.running(bus_url, tmp_path, PRELOAD=preload, WARM="true") as cluster:
        for cpu_millis in (1000, 4000):
            job = await cluster.run(
                PROGRAM,
                arguments=encoding.encode({"circuit": circuit}).decode(),
                shape=Shape(cpu_millis, 1024 * MIB),
            )
            result = encoding.decode(json.dumps(await job.result()))
            assert result["loaded"] == ["qiskit", "qiskit_ibm_runtime", "numpy"]
            assert result["qubits"] == 133
            assert result["circuit"] == circuit
