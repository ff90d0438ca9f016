"""Programs with the real client, unmodified, against endpoint, bus and broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from qpu_world import Services, Worker

BELL = """
import json
from qiskit import QuantumCircuit, transpile
from qiskit.quantum_info import SparsePauliOp
from qiskit_ibm_runtime import Batch, EstimatorV2, QiskitRuntimeService, SamplerV2, Session

def bell(backend, measured=True):
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    if measured:
        circuit.measure_all()
    return transpile(circuit, backend, optimization_level=1)
"""

STEPS = [(0, "Queued"), (1, "Running"), (2, "Completed")]


async def test_a_sampler_program_runs_and_each_step_is_told_in_order(worker: Worker, services: Services) -> None:
    sandbox = await worker.sandbox()
    done = await sandbox.run(
        BELL
        + """
service = QiskitRuntimeService()
backend = service.backend("ibm_torino")
job = SamplerV2(mode=backend).run([(bell(backend),)], shots=500)
counts = job.result()[0].data.meas.get_counts()
print(json.dumps({"id": job.job_id(), "counts": counts, "status": job.status(), "qubits": backend.num_qubits,
                  "usage": job.usage(), "metrics": job.metrics(), "account": service.usage()}))
"""
    )
    told = done.told
    assert set(told["counts"]) == {"00", "11"}
    assert sum(told["counts"].values()) == 500
    assert told["status"] == "DONE"
    assert told["qubits"] == 133
    assert told["usage"] > 0
    assert told["metrics"]["usage"]["status"] == "complete"
    assert None not in told["metrics"]["timestamps"].values()
    await sandbox.over()
    assert sandbox.steps() == {told["id"]: STEPS}
    assert sandbox.transitions[-1].qpu_seconds == told["usage"]
    assert told["account"]["usage_consumed_seconds"] == round(told["usage"], 3)
    assert 'qonduit_qpu_seconds_total{backend="ibm_torino",mode="job"}' in services.qpu_broker.metrics()


async def test_the_client_sees_the_jobs_budget_as_its_instances_limit(worker: Worker) -> None:
    sandbox = await worker.sandbox(qpu_budget_s=3600.0)
    done = await sandbox.run(
        BELL
        + """
service = QiskitRuntimeService()
backend = service.backend("ibm_torino")
job = SamplerV2(mode=backend).run([(bell(backend),)], shots=500)
job.result()
print(json.dumps({"usage": job.usage(), "account": service.usage()}))
"""
    )
    account, used = done.told["account"], round(done.told["usage"], 3)
    assert (account["usage_limit_seconds"], account["usage_limit_reached"]) == (3600.0, False)
    assert account["usage_consumed_seconds"] == used > 0
    assert account["usage_remaining_seconds"] == pytest.approx(3600.0 - used)


async def test_an_estimator_program_with_a_sweep_runs(worker: Worker) -> None:
    done = await (await worker.sandbox()).run(
        BELL
        + """
from qiskit.circuit import Parameter
service = QiskitRuntimeService()
backend = service.backend("ibm_fez")
angle = Parameter("angle")
circuit = QuantumCircuit(2)
circuit.ry(angle, 0)
circuit.cx(0, 1)
isa = transpile(circuit, backend, optimization_level=1)
observables = [[SparsePauliOp("ZI").apply_layout(isa.layout)], [SparsePauliOp("ZZ").apply_layout(isa.layout)]]
estimator = EstimatorV2(mode=backend, options={"default_precision": 0.01, "simulator": {"seed_simulator": 7}})
result = estimator.run([(isa, observables, [0.0, 3.141592653589793])]).result()
print(json.dumps({"evs": result[0].data.evs.tolist(), "stds": result[0].data.stds.tolist(),
                  "shape": result[0].data.evs.shape}))
"""
    )
    told = done.told
    assert told["shape"] == [2, 2]
    for value, expected in zip([*told["evs"][0], *told["evs"][1]], [1, -1, 1, 1], strict=True):
        assert abs(value - expected) < 0.1
    assert told["stds"] == [[0.01, 0.01], [0.01, 0.01]]


async def test_session_batch_lists_tags_and_usage(worker: Worker) -> None:
    sandbox = await worker.sandbox()
    done = await sandbox.run(
        BELL
        + """
service = QiskitRuntimeService()
backend = service.backend("ibm_torino")
isa = bell(backend)
with Session(backend=backend, max_time=600) as session:
    before = session.details()["state"]
    first = SamplerV2(mode=session).run([(isa,)], shots=100)
    first.result()
    second = EstimatorV2(mode=session).run([(bell(backend, False), SparsePauliOp("Z" * 133))])
    second.result()
    during = session.details()["state"], session.status()
after = session.details()
with Batch(backend=backend) as batch:
    sampler = SamplerV2(mode=batch)
    sampler.options.environment.job_tags = ["mine"]
    jobs = [sampler.run([(isa,)], shots=64) for _ in range(3)]
for job in jobs:
    job.wait_for_final_state()
batch_usage, charged = batch.usage(), sum(job.usage() for job in jobs)
tagged = jobs[0].update_tags(["other"])
found = {
    "all": len(service.jobs(limit=None)), "page": len(service.jobs(limit=2)),
    "session": sorted(job.job_id() for job in service.jobs(session_id=session.session_id)) == sorted(
        [first.job_id(), second.job_id()]),
    "mine": len(service.jobs(job_tags=["mine"])), "other": [j.job_id() for j in service.jobs(job_tags=["other"])],
    "estimators": len(service.jobs(program_id="estimator")), "pending": len(service.jobs(pending=True)),
    "backend": len(service.jobs(backend_name="ibm_fez")),
    "oldest": service.jobs(limit=1, descending=False)[0].job_id() == first.job_id(),
}
again = Session.from_id(session.session_id, service)
service.delete_job(jobs[2].job_id())
print(json.dumps({
    "before": before, "during": during, "after": [after["state"], after["accepting_jobs"], after["mode"]],
    "elapsed": after["usage_time"], "batch": [batch_usage, charged], "tagged": tagged, "found": found,
    "first": jobs[0].job_id(), "left": len(service.jobs(limit=None)), "again": again.details()["state"],
    "mode": batch.details()["mode"], "logs": jobs[0].logs(), "inputs": sorted(jobs[1].inputs),
    "retrieved": service.job(first.job_id()).result()[0].data.meas.num_shots,
}))
"""
    )
    told = done.told
    assert told["before"] == "open"
    assert told["during"] == ["active", "In progress, accepting new jobs"]
    assert told["after"] == ["closed", False, "dedicated"]
    assert told["elapsed"] >= 0
    assert abs(told["batch"][0] - told["batch"][1]) <= 1
    assert told["tagged"] == ["other"]
    assert told["found"] == {
        "all": 5, "page": 2, "session": True, "mine": 2, "other": [told["first"]], "estimators": 1, "pending": 0,
        "backend": 0, "oldest": True,
    }  # fmt: skip
    assert told["left"] == 4
    assert told["again"] == "closed"
    assert told["mode"] == "batch"
    assert told["logs"] == ""
    assert {"pubs", "options", "version"} <= set(told["inputs"])
    assert told["retrieved"] == 100
    await sandbox.over(5)
    assert list(sandbox.steps().values()) == [STEPS] * 5


async def test_executor_primitives_run(worker: Worker) -> None:
    done = await (await worker.sandbox()).run(
        BELL
        + """
from qiskit_ibm_runtime.executor_sampler import Sampler
from qiskit_ibm_runtime.executor_estimator import Estimator
service = QiskitRuntimeService()
backend = service.backend("ibm_torino")
counts = Sampler(mode=backend).run([bell(backend)], shots=200).result()[0].data.meas.get_counts()
circuit = bell(backend, False)
observable = SparsePauliOp("ZZ").apply_layout(transpile(circuit, backend, optimization_level=0).layout) \\
    if circuit.layout is None else SparsePauliOp("ZZ").apply_layout(circuit.layout)
value = float(Estimator(mode=backend).run([(circuit, observable)]).result()[0].data.evs)
print(json.dumps({"counts": counts, "value": value}))
"""
    )
    told = done.told
    assert set(told["counts"]) == {"00", "11"}
    assert abs(told["value"] - 1) < 0.1


async def test_dynamic_circuits_registers_and_large_results_come_through(worker: Worker) -> None:
    done = await (await worker.sandbox()).run(
        BELL
        + """
from qiskit.circuit import ClassicalRegister, Parameter, QuantumRegister
service = QiskitRuntimeService()
backend = service.backend("ibm_torino", use_fractional_gates=None)
early, late = ClassicalRegister(1, "early"), ClassicalRegister(2, "late")
circuit = QuantumCircuit(QuantumRegister(2), early, late)
circuit.x(0)
circuit.measure(0, early[0])
with circuit.if_test((early, 1)):
    circuit.x(1)
circuit.measure([0, 1], late)
sampler = SamplerV2(mode=backend)
dynamic, wide = sampler.run(
    [(transpile(circuit, backend),), (bell(backend), None, 60_000)], shots=100
).result()
print(json.dumps({"early": dynamic.data.early.get_counts(), "late": dynamic.data.late.get_counts(),
                  "wide": wide.data.meas.num_shots,
                  "dynamic": len(service.backends(dynamic_circuits=True)) if False else True}))
"""
    )
    told = done.told
    assert told["early"] == {"1": 100}
    assert told["late"] == {"11": 100}
    assert told["wide"] == 60_000


async def test_a_parameter_sweep_too_large_for_a_message_comes_through(worker: Worker) -> None:
    done = await (await worker.sandbox()).run(
        BELL
        + """
import numpy as np
from qiskit.circuit import Parameter
backend = QiskitRuntimeService().backend("ibm_torino")
circuit = QuantumCircuit(1)
for number in range(40):
    circuit.rx(Parameter(f"p{number:02}"), 0)
circuit.measure_all()
values = np.random.default_rng(1).random((300, 40))
job = SamplerV2(mode=backend).run([(transpile(circuit, backend, optimization_level=0), values)], shots=16)
print(json.dumps({"shape": job.result()[0].data.meas.shape, "inputs": len(job.inputs["pubs"])}))
"""
    )
    assert done.told == {"shape": [300], "inputs": 1}


async def test_least_busy_and_the_list_of_devices(worker: Worker) -> None:
    done = await (await worker.sandbox()).run(
        """
import json, time
from qiskit_ibm_runtime import QiskitRuntimeService
service = QiskitRuntimeService(channel="ibm_quantum_platform", instance="qonduit")
begin = time.monotonic()
least = service.least_busy(min_num_qubits=127)
took = time.monotonic() - begin
names = [backend.name for backend in service.backends()]
status = service.backend("ibm_torino").status()
heron = service.backend("ibm_torino")
print(json.dumps({"least": least.num_qubits, "took": took, "names": names, "operational": status.operational,
                  "control": "if_else" in heron.target.operation_names, "cz": heron.target["cz"] is not None,
                  "t1": heron.properties().t1(0), "crn": service.active_instance()[:4]}))
"""
    )
    told = done.told
    assert told["least"] >= 127
    assert {"ibm_torino", "ibm_fez", "ibm_brisbane", "ibm_sherbrooke", "ibmq_manila"} <= set(told["names"])
    assert len(told["names"]) > 60
    assert told["operational"]
    assert told["control"]
    assert told["cz"]
    assert told["t1"] > 0
    assert told["crn"] == "crn:"


async def test_a_token_of_the_authors_own_is_neither_needed_nor_passed_on(worker: Worker, services: Services) -> None:
    done = await (await worker.sandbox()).run(
        """
from qonduit.program.runtime_redirect import redirect_runtime_client
redirect_runtime_client()
"""
        + BELL
        + """
redirect_runtime_client()
service = QiskitRuntimeService(channel="ibm_cloud", token="SECRET-OF-THE-AUTHOR", instance="crn:v1:of:the:author::::::")
named = QiskitRuntimeService(name="my-saved-account")
positional = QiskitRuntimeService("ibm_quantum_platform", "SECRET-OF-THE-AUTHOR")
backend = service.backend("ibm_torino")
counts = SamplerV2(mode=backend).run([(bell(backend),)], shots=10).result()[0].data.meas.get_counts()
print(json.dumps({"shots": sum(counts.values()), "named": len(named.instances()), "p": len(positional.instances()),
                  "account": service.active_account()["token"] == "SECRET-OF-THE-AUTHOR",
                  "saved": service.saved_accounts()}))
"""
    )
    assert done.told == {"shots": 10, "named": 1, "p": 1, "account": False, "saved": {}}
    assert "SECRET-OF-THE-AUTHOR" not in services.qpu_broker.log()
