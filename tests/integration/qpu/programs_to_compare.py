"""Programs of users, each a function; what they see is printed as JSON. Knows the real client, and nothing of ours."""

import json
import math
import sys
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.quantum_info import SparsePauliOp
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime import Batch, EstimatorV2, QiskitRuntimeService, SamplerV2, Session
from qiskit_ibm_runtime.executor_estimator import Estimator
from qiskit_ibm_runtime.executor_sampler import Sampler

SEED = {"simulator": {"seed_simulator": 7}}
service = QiskitRuntimeService()
small = service.backend("ibmq_manila")
large = service.backend("ibm_torino")
pass_manager = generate_preset_pass_manager(optimization_level=1, backend=small, seed_transpiler=1)


def flipped(qubits: int = 2) -> QuantumCircuit:
    """Return a circuit whose result is certain: every other qubit is 1."""
    circuit = QuantumCircuit(qubits)
    for qubit in range(0, qubits, 2):
        circuit.x(qubit)
    circuit.measure_all()
    return circuit


def rotated() -> QuantumCircuit:
    """Return a circuit with a parameter, and no measurement."""
    circuit = QuantumCircuit(2)
    circuit.ry(Parameter("angle"), 0)
    circuit.cx(0, 1)
    return circuit


ISA = pass_manager.run(flipped())
ROTATED = pass_manager.run(rotated())
OBSERVABLE = SparsePauliOp(["ZZ", "XX"]).apply_layout(ROTATED.layout)


def counts_of(job: Any) -> list[dict[str, int]]:
    """Return the counts of each pub."""
    return [pub.data.meas.get_counts() for pub in job.result()]


def raised(error: Exception) -> list[str]:
    """Return an error's type, and the part of its text that holds no id."""
    return [type(error).__name__, str(error).split("q", 1)[0].split("d0", 1)[0][:40]]


def sampler() -> object:
    """A job with three pubs."""
    job = SamplerV2(mode=small, options=SEED).run([ISA] * 3, shots=100)
    return [counts_of(job), job.status(), job.backend().name, job.primitive_id, job.in_final_state(), job.errored()]


def estimator() -> object:
    """Expectation values, with the noise of their precision."""
    job = EstimatorV2(mode=small, options=SEED).run([(ROTATED, OBSERVABLE, [0.5])], precision=0.02)
    data = job.result()[0].data
    return [data.evs.tolist(), data.stds.tolist(), job.status()]


def parameter_sweep() -> object:
    """One circuit with several values."""
    measured = ROTATED.copy()
    measured.measure_all()
    job = SamplerV2(mode=small, options=SEED).run([(measured, np.linspace(0, math.pi, 6).reshape(6, 1))], shots=50)
    data = job.result()[0].data.meas
    return [data.shape, [data.get_counts(index) for index in range(6)]]


def a_hundred_qubits() -> object:
    """As wide as only devices are."""
    wide = generate_preset_pass_manager(optimization_level=0, backend=large, seed_transpiler=1).run(flipped(100))
    return counts_of(SamplerV2(mode=large, options=SEED).run([wide], shots=20))


def a_thousand_parameter_sets() -> object:
    """A large body and a large result."""
    values = np.linspace(0, 1, 1_000).reshape(1_000, 1)
    data = EstimatorV2(mode=small, options=SEED).run([(ROTATED, OBSERVABLE, values)], precision=0.1).result()[0].data
    return [data.evs.shape, data.evs.tolist()]


def executor_sampler() -> object:
    """The primitives that are built on the executor."""
    return counts_of(Sampler(mode=small).run([ISA], shots=64))


def executor_estimator() -> object:
    """The same for values; on the diagonal, so that they are certain."""
    circuit = pass_manager.run(flipped().remove_final_measurements(inplace=False))
    observable = SparsePauliOp(["IZ"]).apply_layout(circuit.layout)
    return Estimator(mode=small).run([(circuit, observable)], precision=0.1).result()[0].data.evs.tolist()


def session() -> object:
    """Two jobs in a session."""
    with Session(backend=small) as opened:
        before = opened.status()
        jobs = [SamplerV2(mode=opened, options=SEED).run([ISA], shots=10) for _ in range(2)]
        results = [counts_of(job) for job in jobs]
        during = opened.status()
    details = opened.details()
    same = {job.session_id for job in jobs} == {opened.session_id}
    return [
        before,
        during,
        results,
        same,
        details["mode"],
        details["backend_name"],
        details["max_time"],
        opened.status(),
    ]


def batch_of_three() -> object:
    """Three jobs, fetched after the batch was closed."""
    with Batch(backend=small, max_time="10m") as opened:
        jobs = [SamplerV2(mode=opened, options=SEED).run([ISA], shots=shots) for shots in (10, 20, 30)]
    listed = service.jobs(session_id=opened.session_id, limit=10)
    return [[counts_of(job) for job in jobs], len(listed), opened.details()["mode"], opened.details()["max_time"]]


def failure_in_a_session() -> object:
    """A job that fails leaves its session as it was."""
    tangled = QuantumCircuit(60)
    for qubit in range(60):
        tangled.rz(0.1 * (qubit + 1), qubit)
        tangled.sx(qubit)
        tangled.rz(0.2, qubit)
    tangled.measure_all()
    wide = generate_preset_pass_manager(optimization_level=0, backend=large, seed_transpiler=1).run(tangled)
    with Session(backend=large) as opened:
        failed = SamplerV2(mode=opened).run([wide], shots=10)
        try:
            failed.result()
            error: list[str] = []
        except Exception as caught:  # noqa: BLE001 -- that is what is compared.
            error = raised(caught)
        flat = generate_preset_pass_manager(optimization_level=0, backend=large, seed_transpiler=1).run(flipped())
        then = counts_of(SamplerV2(mode=opened, options=SEED).run([flat], shots=10))
    return [error, failed.status(), bool(failed.error_message()), then]


def cancelled() -> object:
    """A job that is over can't be cancelled."""
    job = SamplerV2(mode=small).run([ISA], shots=10)
    job.wait_for_final_state()
    try:
        job.cancel()
    except Exception as caught:  # noqa: BLE001 -- that is what is compared.
        return [raised(caught)[0], job.status()]
    return job.status()


def tags_and_lists() -> object:
    """Tags, and lists by every filter."""
    primitive = SamplerV2(mode=small)
    primitive.options.environment.job_tags = ["first", "of-mine"]
    job = primitive.run([ISA], shots=10)
    job.wait_for_final_state()
    job.update_tags(["second"])
    by_tag = [len(service.jobs(job_tags=tags)) for tags in (["second"], ["first"], ["second", "of-mine"])]
    mine = service.jobs(job_tags=["second"], backend_name="ibmq_manila", program_id="sampler", pending=False)
    again = service.job(job.job_id())
    return [
        by_tag,
        [one.job_id() == job.job_id() for one in mine],
        again.tags,
        counts_of(again),
        len(service.jobs(pending=True)),
    ]


def metrics_and_inputs() -> object:
    """What a job cost, and what went into it."""
    job = SamplerV2(mode=small).run([ISA], shots=1_000)
    job.wait_for_final_state()
    metrics = job.metrics()
    return [
        job.usage(),
        metrics["usage"],
        sorted(metrics["timestamps"]),
        metrics["circuits_execution_time_ns"],
        sorted(job.inputs),
        job.creation_date is not None,
    ]


def deleted() -> object:
    """A job that was deleted is not there."""
    job = SamplerV2(mode=small).run([ISA], shots=10)
    job.wait_for_final_state()
    service.delete_job(job.job_id())
    try:
        service.job(job.job_id())
    except Exception as caught:  # noqa: BLE001 -- that is what is compared.
        return type(caught).__name__
    return "still there"


def dry_run() -> object:
    """A job on the mock of a device, which lists leave out unless asked."""
    job = SamplerV2(mode=small, options=SEED).run([ISA], shots=100, dry_run=True)
    seen = [counts_of(job), job.status(), job.usage(), job.backend().name]
    lists = [[one.job_id() for one in service.jobs(limit=50, include_mocks=mocks)] for mocks in (False, True)]
    return [*seen, *(job.job_id() in listed for listed in lists)]


def wrong_backend() -> object:
    """A device that is not there."""
    try:
        service.backend("ibm_nowhere")
    except Exception as caught:  # noqa: BLE001 -- that is what is compared.
        return type(caught).__name__
    return "there"


def devices() -> object:
    """What devices say of themselves."""
    status = small.status()
    return [
        sorted(device.name for device in service.backends()),
        service.least_busy(min_num_qubits=100).num_qubits >= 100,
        [small.num_qubits, small.max_circuits, sorted(small.operation_names), small.dt],
        [status.operational, status.status_msg, status.backend_version],
        small.properties().to_dict()["qubits"][0][0]["name"],
        small.target.qubit_properties[0].t1,
    ]


PROGRAMS = (
    sampler, estimator, parameter_sweep, a_hundred_qubits, a_thousand_parameter_sets, executor_sampler,
    executor_estimator, session, batch_of_three, failure_in_a_session, cancelled, tags_and_lists, metrics_and_inputs,
    deleted, dry_run, wrong_backend, devices,
)  # fmt: skip

if __name__ == "__main__":
    sys.stdout.write(json.dumps({program.__name__: program() for program in PROGRAMS}))
