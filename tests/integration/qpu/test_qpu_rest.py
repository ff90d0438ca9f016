"""What the client's REST layer can send beyond what most programs ask, and that results pass byte for byte."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from qpu_world import Services, Worker

BEGIN = """
import json
from datetime import datetime, timedelta
from qiskit import QuantumCircuit, transpile
from qiskit_ibm_runtime import Batch, QiskitRuntimeService, SamplerV2, Session
service = QiskitRuntimeService()
backend = service.backend("ibm_torino")
circuit = QuantumCircuit(1)
circuit.measure_all()
isa = transpile(circuit, backend, optimization_level=0)

def told(call):
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""


async def test_workloads_lists_jobs_sessions_and_batches(worker: Worker) -> None:
    sandbox = await worker.sandbox(user="ada")
    done = await sandbox.run(
        BEGIN
        + """
begin = datetime.now()
with Batch(backend=backend) as batch:
    sampler = SamplerV2(mode=batch)
    sampler.options.environment.job_tags = ["mine"]
    first = sampler.run([(isa,)], shots=10)
first.result()
session = Session(backend=backend)
second = SamplerV2(mode=backend).run([(isa,)], shots=10)
second.result()
ask = service._active_api_client._api.workloads_get
def ids(**filters):
    return [found["id"] for found in ask(**filters)["workloads"]]
made = {"first": first.job_id(), "second": second.job_id(), "batch": batch.session_id, "session": session.session_id}
page = ask(limit=3)
print(json.dumps({
    "made": made, "all": ids(user="me"), "descending": ids(sort="-createdAt"), "jobs": ids(mode="job"),
    "batches": ids(mode="batch"), "open": ids(mode="session", status=["pending", "in_progress"]),
    "done": ids(status=["completed"]), "tagged": ids(tags=["mine"]), "searched": ids(search="mine"),
    "elsewhere": ids(backend="ibm_fez"), "later": ids(created_after=datetime.now() + timedelta(hours=1)),
    "since": len(ids(created_after=begin)), "page": len(page["workloads"]), "next": page["next"]["href"],
    "rest": ids(next="3"), "total": page["total_count"], "user": page["workloads"][0]["user_id"],
    "nonsense": told(lambda: ask(limit="x"))}))
"""
    )
    told = done.told
    made = told["made"]
    assert told["all"] == [made["batch"], made["first"], made["session"], made["second"]]
    assert told["descending"] == told["all"][::-1]
    assert told["jobs"] == [made["first"], made["second"]]
    assert told["batches"] == [made["batch"]]
    assert told["open"] == [made["session"]]
    assert told["done"] == [made["batch"], made["first"], made["second"]]
    assert told["tagged"] == told["searched"] == [made["first"]]
    assert told["elsewhere"] == told["later"] == []
    assert told["since"] == told["total"] == 4
    assert (told["page"], told["next"], told["rest"]) == (3, "?next=3", told["all"][3:])
    assert told["user"] == "ada"
    assert "400" in told["nonsense"]


async def test_devices_as_they_were_and_mock_devices(worker: Worker) -> None:
    done = await (await worker.sandbox()).run(
        BEGIN
        + """
then = datetime.now() - timedelta(days=3)
calibrated = service.backend("ibm_torino", calibration_id="some-calibration")
job = SamplerV2(mode=calibrated).run([(isa,)], shots=10)
dry = SamplerV2(mode=backend).run([(isa,)], shots=10, dry_run=True)
print(json.dumps({
    "then": backend.properties(datetime=then).t1(0) == backend.properties().t1(0),
    "target": backend.target_history(datetime=then).num_qubits, "calibrated": calibrated.target.num_qubits,
    "job": job.properties().backend_name, "shots": job.result()[0].data.meas.num_shots,
    "dry": [dry.backend().name, dry.result()[0].data.meas.num_shots, dry.usage()],
    "jobs": [len(service.jobs(**more)) for more in ({}, {"include_mocks": True}, {"backend_name": "mock_torino"})],
    "listed": [one.name for one in service.backends() if one.name.startswith("mock")],
    "busy": service.least_busy(min_num_qubits=127, filters=lambda one: one.num_qubits == 133).name}))
"""
    )
    told = done.told
    assert told["then"]
    assert told["target"] == told["calibrated"] == 133
    assert told["job"] == "ibm_torino"
    assert told["shots"] == 10
    assert told["dry"] == ["mock_torino", 10, 0], "a dry run is free"
    assert told["jobs"] == [1, 2, 1]
    assert told["listed"] == []
    assert told["busy"] == "ibm_torino"


async def test_a_large_result_passes_byte_for_byte(worker: Worker, services: Services) -> None:
    sandbox = await worker.sandbox()
    job_id = (
        await sandbox.run(
            BEGIN
            + """
wide = QuantumCircuit(16)
wide.h(range(16))
wide.measure_all()
job = SamplerV2(mode=backend).run([(transpile(wide, backend, optimization_level=0),)], shots=60_000)
assert job.result()[0].data.meas.num_shots == 60_000
print(json.dumps(job.job_id()))
"""
        )
    ).told
    variables = sandbox.endpoint.environment()
    headers = {"Authorization": f"apikey {variables['QISKIT_IBM_TOKEN']}"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.get(f"{variables['QISKIT_IBM_URL']}/jobs/{job_id}/results") as answer,
    ):
        data = await answer.read()
    [(digest,)] = services.ledger("SELECT result_digest FROM qpu_jobs WHERE qpu_job_id = ?", job_id)
    assert len(data) > 100_000
    assert hashlib.sha256(data).hexdigest() == digest
