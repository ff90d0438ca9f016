"""The programs of the page the project started from, on a real stack."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from qiskit import QuantumCircuit
from qiskit.circuit.random import random_circuit
from qiskit.quantum_info import SparsePauliOp
from qonduit import QiskitFunction, ServerlessClient
from stack_control import charged

if TYPE_CHECKING:
    from qonduit import Job
    from stack_control import Stack

PROGRAMS = Path(__file__).parents[2] / "examples" / "programs"
STAGES = [
    "RUNNING: MAPPING",
    "RUNNING: OPTIMIZING_FOR_HARDWARE",
    "RUNNING: WAITING_FOR_QPU",
    "RUNNING: EXECUTING_QPU",
    "RUNNING: POST_PROCESSING",
]


def run(client: ServerlessClient, name: str, **arguments: object) -> Job:
    function = client.upload(QiskitFunction(title=name, entrypoint=f"{name}.py", working_dir=str(PROGRAMS)))
    return function.run(**arguments)


def statuses(job: Job) -> list[str]:
    return [entry.status for entry in job.timeline()]


def test_every_stage_shows_in_order_with_the_strings_of_the_page(client: ServerlessClient) -> None:
    job = run(client, "status_example")
    assert job.result(timeout=300) == {"stages": 5}
    assert job.status() == "DONE"
    assert statuses(job) == ["QUEUED", "INITIALIZING", "RUNNING", *STAGES, "DONE"]
    times = [entry.time for entry in job.timeline()]
    assert times == sorted(times)


@pytest.mark.parametrize("name", ["transpile_remote", "transpile_remote_wide"])
def test_transpile_side_by_side(client: ServerlessClient, name: str) -> None:
    circuits = [random_circuit(3, 3, seed=seed) for seed in range(3)]
    job = run(client, name, circuit=circuits[0], circuit_list=circuits, backend="ibm_torino", optimization_level=1)
    result: dict[str, Any] = job.result(timeout=300)
    assert len(result["circuits"]) == 3
    for circuit in result["circuits"]:
        assert isinstance(circuit, QuantumCircuit)
        assert circuit.num_qubits == 133
        assert {"cz", "sx", "rz", "x", "id", "rzz", "rx"} >= set(circuit.count_ops()) - {"measure", "barrier", "delay"}
    assert result["metadata"]["resource_usage"]["RUNNING: OPTIMIZING_FOR_HARDWARE"]["QPU_TIME"] == 0
    assert "RUNNING: OPTIMIZING_FOR_HARDWARE" in statuses(job)
    stages = {stage.status: stage for stage in job.usage().stages}
    assert stages["RUNNING: OPTIMIZING_FOR_HARDWARE"].cpu_s > 0


def test_a_tar_goes_in_and_a_program_unpacks_it(client: ServerlessClient, tmp_path: Path) -> None:
    path = tmp_path / "transpile_demo.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(PROGRAMS / "transpile_remote.py", arcname="transpile_remote.py")
    assert "transpile_demo.tar" in client.file_upload(str(path))
    try:
        assert client.files() == ["transpile_demo.tar"]
        result = run(client, "extract_tarfile").result(timeout=300)
        assert result == {"files": ["transpile_demo.tar"], "members": ["transpile_remote.py"], "unpacked": True}
        back = client.file_download("transpile_demo.tar", target_name="back.tar", download_location=str(tmp_path))
        assert Path(back).read_bytes() == path.read_bytes()
    finally:
        client.file_delete("transpile_demo.tar")
    assert client.files() == []


def test_a_sampler_waits_and_executes_without_saying_so_itself(client: ServerlessClient) -> None:
    job = run(client, "sampler", backend="ibm_torino")
    result: dict[str, Any] = job.result(timeout=300)
    assert sum(result["counts"].values()) == 1000
    assert set(result["counts"]) == {"00", "11"}
    assert result["backend"] == "ibm_torino"
    seen = statuses(job)
    assert seen == [
        "QUEUED",
        "INITIALIZING",
        "RUNNING",
        "RUNNING: MAPPING",
        "RUNNING: OPTIMIZING_FOR_HARDWARE",
        "RUNNING: WAITING_FOR_QPU",
        "RUNNING: EXECUTING_QPU",
        "RUNNING: OPTIMIZING_FOR_HARDWARE",
        "RUNNING: POST_PROCESSING",
        "DONE",
    ], "after the QPU the stage goes back to the one the program set"
    told = [entry.text.split(" ", 3)[3] for entry in job.timeline() if entry.text.startswith("QPU job ")]
    assert told[0].startswith("waits for ibm_torino, 0 ahead")
    assert told[1:] == ["runs on ibm_torino", "on ibm_torino is completed"]
    assert charged(job)["RUNNING: EXECUTING_QPU"] > 0


def test_an_estimator_in_a_session(client: ServerlessClient) -> None:
    job = run(client, "estimator", backend="ibm_torino")
    result: dict[str, Any] = job.result(timeout=300)
    assert result["energy"] == pytest.approx(2.0, abs=0.1)
    assert isinstance(result["observable"], SparsePauliOp)
    assert {"RUNNING: WAITING_FOR_QPU", "RUNNING: EXECUTING_QPU"} <= set(statuses(job))
    assert statuses(job)[-2:] == ["RUNNING", "DONE"]


CLIENT_OF_THE_PAGE = """\
import tarfile
import time
import uuid
from qiskit.circuit.random import random_circuit
from {package} import IBMServerlessClient, QiskitFunction

title = "transpile_remote_" + uuid.uuid4().hex[:8]
serverless = IBMServerlessClient()
transpile_remote_demo = QiskitFunction(
    title=title,
    entrypoint="transpile_remote.py",
    working_dir="./source_files/",
)
serverless.upload(transpile_remote_demo)
job = serverless.get(title).run(
    circuit=random_circuit(3, 3),
    circuit_list=[random_circuit(3, 3) for _ in range(3)],
    backend="ibm_torino",
    optimization_level=1,
)
for _ in range(3000):
    time.sleep(0.1)
    status = job.status()
    if status == "DONE":
        print("Job completed successfully")
        break
    if status not in ["QUEUED", "INITIALIZING", "RUNNING", "RUNNING: OPTIMIZING_FOR_HARDWARE", "DONE"]:
        raise Exception(f"Unexpected job status '{{status}}'.\\nHere's the logs:\\n" + job.logs())

filename = "transpile_demo.tar"
file = tarfile.open(filename, "w")
file.add("./source_files/transpile_remote.py")
file.close()
transpile_remote_demo = next(program for program in serverless.list() if program.title == title)
print(serverless.file_upload(file=filename, function=transpile_remote_demo))
print(serverless.files(function=transpile_remote_demo))
serverless.file_delete(filename, function=transpile_remote_demo)
"""


@pytest.mark.parametrize("package", ["qonduit", "qiskit_serverless"])
def test_the_pages_client_code_runs(stack: Stack, tmp_path: Path, package: str) -> None:
    """With its import line changed it runs as it is; unchanged it runs under `qonduit exec`."""
    (tmp_path / "source_files").mkdir()
    program = (PROGRAMS / "transpile_remote.py").read_text()
    (tmp_path / "source_files" / "transpile_remote.py").write_text(program)
    script = tmp_path / "client.py"
    script.write_text(CLIENT_OF_THE_PAGE.format(package=package))
    done = stack.run_script(script, through_exec=package != "qonduit")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Job completed successfully" in done.stdout
    assert "['transpile_demo.tar']" in done.stdout
