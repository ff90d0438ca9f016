"""`qonduit qpu` on a real stack: what a user sees of what their program did on a QPU."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from qonduit.exceptions import QpuJobNotFoundError, QpuJobOverError, QpuSessionNotFoundError
from stack_control import charged

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit import Job, ServerlessClient
    from stack_control import Stack

PROGRAM = """\
from qiskit import QuantumCircuit, generate_preset_pass_manager
from qiskit_ibm_runtime import QiskitRuntimeService, SamplerV2, Session
from qiskit_serverless import save_result

circuit = QuantumCircuit(1)
circuit.x(0)
circuit.measure_all()
backend = QiskitRuntimeService().backend("ibm_torino")
isa_circuit = generate_preset_pass_manager(optimization_level=0, backend=backend).run(circuit)
with Session(backend=backend) as session:
    job = SamplerV2(mode=session).run([isa_circuit], shots=100)
    job.result()
save_result({"qpu_job": job.job_id(), "session": session.session_id})
"""


def told(stack: Stack, *arguments: str) -> Any:
    return json.loads(stack.qonduit("qpu", *arguments, "--json").stdout)


def test_a_users_qpu_jobs_sessions_and_status(
    stack: Stack, client: ServerlessClient, submit: Callable[..., Job]
) -> None:
    job = submit(PROGRAM)
    made = job.result(timeout=300)
    charged(job)  # From then on nothing of it changes any more.
    newest = told(stack, "jobs", "--limit", "1")[0]
    assert (newest["qpu_job_id"], newest["job_id"], newest["state"]) == (made["qpu_job"], job.job_id, "Completed")
    assert newest["session_id"] == made["session"]
    assert told(stack, "jobs", "--job", job.job_id[:12]) == [newest]
    assert made["qpu_job"] not in [each["qpu_job_id"] for each in told(stack, "jobs", "--pending")]
    opened = told(stack, "sessions", "--limit", "1")[0]
    assert (opened["session_id"], opened["job_id"], opened["mode"]) == (made["session"], job.job_id, "dedicated")
    assert (opened["state"], opened["unfinished_jobs"]) == ("closed", 0)
    assert {"ibm_torino", "ibm_fez"} <= {each["name"] for each in told(stack, "backends")}
    status = told(stack, "status")
    assert [(each["name"], each["state"]) for each in status["instances"]] == [("local", "ok")]
    assert "Simulated here." in stack.qonduit("qpu", "status").stdout

    with pytest.raises(QpuJobOverError, match=f"{made['qpu_job']} is Completed"):
        client.qpu.cancel(made["qpu_job"])
    assert client.qpu.close_session(made["session"]).state == "closed", "the same again changes nothing"
    with stack.client(stack.qonduit("users", "add", "onlooker").stdout.split()[-1]) as other:
        assert other.qpu.jobs() == []
        assert other.qpu.sessions() == []
        with pytest.raises(QpuJobNotFoundError, match="List your QPU jobs"):
            other.qpu.cancel(made["qpu_job"])
        with pytest.raises(QpuSessionNotFoundError):
            other.qpu.close_session(made["session"], cancel=True)
