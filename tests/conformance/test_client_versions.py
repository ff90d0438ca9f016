"""Each supported version of the real client against endpoint, RabbitMQ, broker and local devices."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from client_environments import environment_of, layer_of
from qpu_world import PROGRAM_TIMEOUT_S, finish

if TYPE_CHECKING:
    from qpu_world import Finished, Sandbox, Services, Worker

BY_ENVIRONMENT = ["==0.49.0", "==0.50.*", ""]
"""The oldest that needs nothing but variables, the newest of the next, and the newest there is."""
BY_RUNNER = ["==0.43.1", "==0.46.1"]
"""Those that the program's runner brings here."""
TOO_OLD = "==0.42.0"

PROGRAMS = """
import json
from datetime import datetime, timedelta
from qiskit import QuantumCircuit, transpile
from qiskit.quantum_info import SparsePauliOp
import qiskit_ibm_runtime
from qiskit_ibm_runtime import Batch, EstimatorV2, QiskitRuntimeService, SamplerV2, Session

service = QiskitRuntimeService(**GIVEN)
backend = service.backend("ibm_torino")

def bell(measured=True):
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    if measured:
        circuit.measure_all()
    return transpile(circuit, backend, optimization_level=1)

def told(call):
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def sampler():
    job = SamplerV2(mode=backend).run([(bell(),)], shots=200)
    counts = job.result()[0].data.meas.get_counts()
    again = service.job(job.job_id()).result()[0].data.meas.num_shots
    return [sorted(counts), sum(counts.values()), job.status(), again]

def estimator():
    isa = bell(measured=False)
    observable = SparsePauliOp("ZZ").apply_layout(isa.layout)
    return round(float(EstimatorV2(mode=backend).run([(isa, observable)]).result()[0].data.evs), 1)

def session():
    with Session(backend=backend, max_time=600) as held:
        job = SamplerV2(mode=held).run([(bell(),)], shots=10)
        job.result()
        during = [held.status(), held.details()["mode"], job.session_id == held.session_id]
    again = Session.from_id(held.session_id, service)
    return [during, again.details()["state"], held.usage() >= 0, told(again.cancel)]

def batch():
    with Batch(backend=backend) as held:
        jobs = [SamplerV2(mode=held).run([(bell(),)], shots=10) for _ in range(3)]
    for job in jobs:
        job.wait_for_final_state()
    return [held.details()["mode"], held.details()["state"], [job.status() for job in jobs]]

def cancel():
    print("hold", flush=True)
    input()  # From here on the test lets no simulation go on.
    other = Session(backend=backend)
    running, waiting, within = (SamplerV2(mode=mode).run([(bell(),)]) for mode in (backend, backend, other))
    other.cancel()
    waiting.cancel()
    running.cancel()
    running.wait_for_final_state()
    return [within.status(), waiting.status(), running.status(), told(waiting.result).split(":")[0],
            told(running.cancel).split(":")[0]]

def tags():
    sampler = SamplerV2(mode=backend)
    sampler.options.environment.job_tags = ["first"]
    job = sampler.run([(bell(),)], shots=10)
    job.result()
    before = [found.job_id() for found in service.jobs(job_tags=["first"])] == [job.job_id()]
    job.update_tags(["second", "third"])
    return [before, len(service.jobs(job_tags=["first"])), len(service.jobs(job_tags=["second", "third"])),
            sorted(service.job(job.job_id()).tags)]

def jobs():
    begin = datetime.now()
    made = [SamplerV2(mode=backend).run([(bell(),)], shots=10) for _ in range(3)]
    for job in made:
        job.wait_for_final_state()
    ids = [job.job_id() for job in made]
    def found(**filters):
        return [job.job_id() for job in service.jobs(created_after=begin, **filters)]
    service.delete_job(ids[2])
    return [found(descending=False) == ids[:2], found(limit=1, skip=1) == ids[:1], found(limit=None, pending=True),
            len(found(pending=False, backend_name="ibm_torino")), found(backend_name="ibm_fez"),
            len(found(program_id="sampler")), found(program_id="estimator"),
            len(service.jobs(limit=None, created_before=begin - timedelta(days=1))), found(session_id="x"),
            told(lambda: service.job(ids[2])).split(":")[0], sorted(service.job(ids[0]).inputs)]

def metrics():
    job = SamplerV2(mode=backend).run([(bell(),)], shots=10)
    job.result()
    found = job.metrics()
    return [sorted(found["timestamps"]), job.usage() > 0, job.logs(), job.error_message(), job.usage_estimation,
            job.creation_date.tzinfo is not None, job.properties().backend_name]

def usage():
    return service.usage()["usage_consumed_seconds"] > 0

def devices():
    status = backend.status()
    past = backend.properties(datetime=datetime.now() - timedelta(days=1))
    backend.refresh()
    return [status.operational, past.t1(0) > 0, service.active_instance()[:4],
            service.least_busy(min_num_qubits=127).num_qubits >= 127,
            [one["name"] for one in service.instances()], backend.target.num_qubits,
            told(lambda: service.backend("ibm_nowhere")).split(":")[0]]

ALL = [sampler, estimator, batch, tags, jobs, metrics, usage, devices, session, cancel]  # Cancelling ends a process.
print(json.dumps({"version": qiskit_ibm_runtime.__version__} | {each.__name__: told(each) for each in ALL}))
"""

SHORT = PROGRAMS.replace(PROGRAMS[PROGRAMS.index("ALL = [") : PROGRAMS.index("print(json")], "ALL = [sampler]\n")

EXPECTED: dict[str, Any] = {
    "sampler": [["00", "11"], 200, "DONE", 200],
    "estimator": 1.0,
    "session": [["In progress, accepting new jobs", "dedicated", True], "closed", True, None],
    "batch": ["batch", "closed", ["DONE", "DONE", "DONE"]],
    "cancel": ["CANCELLED", "CANCELLED", "CANCELLED", "RuntimeInvalidStateError", "RuntimeInvalidStateError"],
    "tags": [True, 0, 1, ["second", "third"]],
    "jobs": [True, True, [], 2, [], 2, [], 0, [], "RuntimeJobNotFound",
             ["options", "pubs", "support_qiskit", "version"]],
    "metrics": [["created", "finished", "running"], True, "", None, {"quantum_seconds": None}, True, "ibm_torino"],
    "usage": True,
    "devices": [True, True, "crn:", True, ["qonduit"], 133, "QiskitBackendNotFoundError"],
}  # fmt: skip

SECRET = "SECRET-OF-THE-AUTHOR"
NOTHING = "GIVEN = {}\n"
EXPLICIT = f"GIVEN = dict(channel='ibm_cloud', token='{SECRET}', instance='crn:v1:of:the:author::::::')\n"


async def run_all(services: Services, sandbox: Sandbox, script: str, **how: Any) -> Finished:
    """Run a program to its end, and let no simulation go on from where it says so."""
    program = await sandbox.start(script, **how)
    assert program.stdin is not None
    assert program.stdout is not None
    async with asyncio.timeout(PROGRAM_TIMEOUT_S):
        while (line := await program.stdout.readline()) not in {b"", b"hold\n"}:
            pass
    if not line:
        return await finish(program)
    with services.held_simulator():
        program.stdin.write(b"\n")
        return await finish(program)


@pytest.mark.parametrize("version", BY_ENVIRONMENT, ids=lambda version: version or "newest")
async def test_an_environment_of_its_own_needs_only_our_variables(
    worker: Worker, services: Services, version: str
) -> None:
    client = environment_of(version)
    sandbox = await worker.sandbox()
    told = (await run_all(services, sandbox, NOTHING + PROGRAMS, python=client.python)).told
    assert told.pop("version").startswith(version.strip("=*"))
    assert told == EXPECTED
    assert len(sandbox.steps()) > 10


@pytest.mark.parametrize("version", BY_ENVIRONMENT + BY_RUNNER, ids=lambda version: version or "newest")
async def test_a_function_that_brings_its_client_and_its_authors_token(
    worker: Worker, services: Services, version: str
) -> None:
    older = version in BY_RUNNER
    client = layer_of(version) if older else environment_of(version)
    sandbox = await worker.sandbox()
    how: dict[str, Any] = {"as_driver": True, "PYTHONPATH": client.packages}
    if older:
        done = await run_all(services, sandbox, EXPLICIT + PROGRAMS, **how)
    else:
        done = await sandbox.run(EXPLICIT + SHORT, **how)
    told = done.told
    assert told.pop("version").startswith(version.strip("=*"))
    assert told == (EXPECTED if older else {"sampler": EXPECTED["sampler"]})
    assert SECRET not in done.out + done.err + services.qpu_broker.log() + services.storage.log()


@pytest.mark.parametrize("version", BY_RUNNER)
async def test_an_older_client_without_the_runner_says_so_at_once(worker: Worker, version: str) -> None:
    client = layer_of(version)
    done = await (await worker.sandbox()).run(NOTHING + PROGRAMS, PYTHONPATH=client.packages)
    assert done.code == 1
    assert "Unable to retrieve instances" in done.err


async def test_a_client_that_is_too_old_is_told_to_its_author(worker: Worker) -> None:
    client = layer_of(TOO_OLD)
    done = await (await worker.sandbox()).run(
        "import qiskit_ibm_runtime", as_driver=True, PYTHONPATH=client.packages, PYTHONWARNINGS="default"
    )
    assert "qiskit-ibm-runtime 0.42.0 is too old to reach QPUs from here" in done.err
