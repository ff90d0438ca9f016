"""A program's QPU jobs, as a client of Qiskit Serverless in the program asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qpu_world import Worker

PROGRAM = """
import json, os, requests
from qiskit import QuantumCircuit, transpile
from qiskit_ibm_runtime import QiskitRuntimeService, SamplerV2, Session

service = QiskitRuntimeService()
backend = service.backend("ibm_torino")
circuit = QuantumCircuit(1, 1)
circuit.measure(0, 0)
circuit = transpile(circuit, backend, optimization_level=0)
alone = SamplerV2(mode=backend).run([circuit], shots=10)
with Session(backend=backend) as session:
    within = SamplerV2(mode=session).run([circuit], shots=10)
for job in (alone, within):
    job.result()
headers = {"Authorization": "Bearer " + os.environ["ENV_JOB_GATEWAY_TOKEN"]}
url = os.environ["ENV_JOB_GATEWAY_HOST"] + "/api/v1/jobs/mine/runtime_jobs/"
answer = requests.get(url, headers=headers, timeout=30)
made = [{"runtime_job": alone.job_id(), "runtime_session": None},
        {"runtime_job": within.job_id(), "runtime_session": session.session_id}]
print(json.dumps([answer.json(), {"runtime_jobs": made}]))
"""


async def test_the_system_knows_them_with_their_sessions(worker: Worker) -> None:
    listed, made = (await (await worker.sandbox("mine")).run(PROGRAM)).told
    assert listed == made
