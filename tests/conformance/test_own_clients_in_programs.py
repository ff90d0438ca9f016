"""Programs that bring the client of Qiskit Serverless themselves: it calls back to the address in its environment.

The versions that go together with what a worker runs programs with are what a function depends on, in real jobs. An
older one is an interpreter of its own beside a real endpoint.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from client_environments import serverless_environment_of
from qiskit import QuantumCircuit
from qonduit import QiskitFunction, encoding
from qonduit.job_history import ToldError
from qonduit_service_kit.messages import Stage

if TYPE_CHECKING:
    from pathlib import Path

    from qonduit import Job
    from qpu_world import Worker
    from serverless_people import RestStack

NEWER = ("0.36.0", "0.37.0")
OLDER = ("0.22.0", "qiskit-ibm-runtime==0.37.0", "qiskit==2.6.2")
OWN = {"QONDUIT_QISKIT_SERVERLESS": "own"}
TIMEOUT_S = 900.0
# A function's environment is built before its first job, and that of an older client before its test.
pytestmark = pytest.mark.timeout(1800)

TELLS = """
import json
import qiskit_serverless
from qiskit_serverless import Job, get_arguments, is_running_in_serverless, save_result, update_status

assert is_running_in_serverless()
arguments = get_arguments()
told = {"stage": update_status(Job.OPTIMIZING_HARDWARE), "depth": arguments["circuit"].depth()}
"""
RUNS_ON_A_QPU = """
from qiskit import QuantumCircuit, transpile
from qiskit_ibm_runtime import SamplerV2
from qiskit_serverless import get_runtime_service, send_error

told["version"] = qiskit_serverless.__version__
told["error"] = send_error("E42", "the lamp is broken\\n", "LampError", {"lamp": 7})
backend = get_runtime_service().backend("ibm_torino")
bell = QuantumCircuit(1)
bell.h(0)
bell.measure_all()
job = SamplerV2(mode=backend).run([transpile(bell, backend, optimization_level=0)], shots=10)
job.result()
told["qpu_job"] = job.job_id()
"""
SAVES = "told['saved'] = save_result(told)\nprint(json.dumps(told))\n"


def circuit() -> QuantumCircuit:
    made = QuantumCircuit(1)
    made.h(0)
    return made


def run(stack: RestStack, folder: Path, program: str, version: str, variables: dict[str, str]) -> Job:
    """Run a program of a function that depends on a version of the client."""
    (folder / "main.py").write_text(program)
    spec = QiskitFunction(
        title=f"of-{version.replace('.', '-')}",
        entrypoint="main.py",
        working_dir=str(folder),
        dependencies=[f"qiskit-serverless=={version}"],
        env_vars=variables,
    )
    return stack.client().upload(spec).run(circuit=circuit())


def runtime_jobs(stack: RestStack, job: Job) -> list[str]:
    """Return the QPU jobs that are the job's, as the public client asks for them."""
    answer = stack.request("GET", f"/jobs/{job.job_id}/runtime_jobs/")
    return [each["runtime_job"] for each in answer.json()["runtime_jobs"]]


@pytest.mark.parametrize("version", NEWER)
def test_a_function_that_asks_for_it_has_the_client_that_it_depends_on(
    rest_stack: RestStack, version: str, tmp_path: Path
) -> None:
    job = run(rest_stack, tmp_path, TELLS + RUNS_ON_A_QPU + SAVES, version, OWN)
    result = job.result(timeout=TIMEOUT_S)
    qpu_job = result.pop("qpu_job")
    assert result == {"version": version, "stage": True, "depth": 1, "error": True}
    assert json.loads(job.logs().splitlines()[-1])["saved"] is True
    assert runtime_jobs(rest_stack, job) == [qpu_job]
    told = [entry for entry in job.timeline() if entry.error is not None]
    assert [entry.status for entry in told] == ["RUNNING: OPTIMIZING_FOR_HARDWARE"]
    assert told[0].error == ToldError("E42", "the lamp is broken", "LampError", {"lamp": 7})


def test_an_exception_of_the_client_that_it_depends_on_is_told(rest_stack: RestStack, tmp_path: Path) -> None:
    raises = "from qiskit_serverless import ServerlessError\nraise ServerlessError('E1', 'sorry', {'lamp': 7})\n"
    job = run(rest_stack, tmp_path, raises, NEWER[-1], OWN)
    assert job.wait(timeout=TIMEOUT_S).status == "ERROR"
    assert job.timeline()[-1].error == ToldError("E1", "sorry", "ServerlessError", {"lamp": 7})
    assert "Traceback" in job.error_message()


def test_without_being_asked_for_ours_is_found_first(rest_stack: RestStack, tmp_path: Path) -> None:
    shows = "import qiskit_serverless\nqiskit_serverless.save_result(qiskit_serverless.__version__)\n"
    assert run(rest_stack, tmp_path, shows, NEWER[-1], {}).result(timeout=TIMEOUT_S) != NEWER[-1]


class Words:
    """Keeps what a program says of its job."""

    stage = Stage.NONE
    function = "", "test"
    submitted_at = 0.0

    def __init__(self) -> None:
        self.result = b""

    def set_stage(self, stage: Stage) -> None:
        self.stage = stage

    async def tell(self, *_told: str) -> bool:
        raise AssertionError("this version tells no errors")

    async def keep_result(self, data: bytes) -> None:
        self.result = data


async def test_an_interpreter_of_its_own_with_the_oldest_client_has_the_job(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "arguments.serverless").write_bytes(encoding.encode({"circuit": circuit()}))
    words = Words()
    sandbox = await worker.sandbox("the-job", words=words)
    program = f"import os\nos.chdir({str(tmp_path)!r})\n{TELLS}{SAVES}"
    done = await sandbox.run(program, python=serverless_environment_of(*OLDER).python, ENV_JOB_ID_GATEWAY="the-job")
    told: dict[str, Any] = {"stage": True, "depth": 1}
    assert done.told == told | {"saved": True}
    assert json.loads(words.result) == told
    assert words.stage is Stage.OPTIMIZING_FOR_HARDWARE
