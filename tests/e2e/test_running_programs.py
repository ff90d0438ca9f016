"""What users do, from outside: the programs of examples/, tasks on two workers, and the interface without the SDK."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import requests
from qiskit.circuit.random import random_circuit
from qonduit import QiskitFunction
from qonduit_api.v1 import functions_pb2, functions_pb2_grpc, jobs_pb2, jobs_pb2_grpc, types_pb2
from stack_control import TOLD, charged, until_logged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from compose_control import Deployment
    from qonduit import Job, ServerlessClient

PROGRAMS = Path(__file__).parents[2] / "examples" / "programs"
ON_EVERY_WORKER = (
    TOLD
    + """\
from qiskit_serverless import distribute_task, save_result
from qonduit import cancel, wait

@distribute_task(target={"cpu": 1, "mem": 4 * 2**30})
def meet():
    print("is here")
    time.sleep(600)

# Of 7 GiB that each worker leases, 4 fit once: two at a time need two workers.
references = [meet() for _ in range(2)]
wait(references, timeout=0)
told("both.tar")
cancel(references)
save_result("done")
"""
)
TOO_MUCH = """\
from qiskit_serverless import distribute_task, get, save_result
from qonduit import TaskOutOfMemoryError

@distribute_task(target={"cpu": 1, "mem": 300 * 2**20})
def grow():
    held = []
    while True:
        held.append(bytearray(b"x" * 2**24))

try:
    get(grow())
except TaskOutOfMemoryError as error:
    save_result(str(error))
"""
PLAIN = b"""\
from qiskit_serverless import get_arguments, save_result
print("hello from the program", flush=True)
save_result({"doubled": 2 * get_arguments()["n"]})
"""


def run(client: ServerlessClient, name: str, **arguments: object) -> Job:
    function = client.upload(QiskitFunction(title=name, entrypoint=f"{name}.py", working_dir=str(PROGRAMS)))
    return function.run(**arguments)


def test_every_stage_shows(client: ServerlessClient) -> None:
    job = run(client, "status_example")
    assert job.result(timeout=600) == {"stages": 5}
    stages = ("MAPPING", "OPTIMIZING_FOR_HARDWARE", "WAITING_FOR_QPU", "EXECUTING_QPU", "POST_PROCESSING")
    shown = [entry.status for entry in job.timeline()]
    assert shown == ["QUEUED", "INITIALIZING", "RUNNING", *(f"RUNNING: {stage}" for stage in stages), "DONE"]


@pytest.mark.parametrize("name", ["transpile_remote", "transpile_remote_wide"])
def test_transpile_side_by_side(client: ServerlessClient, name: str) -> None:
    circuits = [random_circuit(3, 3, seed=seed) for seed in range(3)]
    job = run(client, name, circuit=circuits[0], circuit_list=circuits, backend="ibm_torino", optimization_level=1)
    result: dict[str, Any] = job.result(timeout=300)
    assert [circuit.num_qubits for circuit in result["circuits"]] == [133, 133, 133]


def test_a_tar_goes_in_and_a_program_unpacks_it(client: ServerlessClient, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "transpile_demo.tar", "w") as tar:
        tar.add(PROGRAMS / "transpile_remote.py", arcname="transpile_remote.py")
    client.file_upload(str(tmp_path / "transpile_demo.tar"))
    try:
        result: dict[str, Any] = run(client, "extract_tarfile").result(timeout=600)
        assert result["members"] == ["transpile_remote.py"]
    finally:
        client.file_delete("transpile_demo.tar")


def test_a_sampler_is_charged_for_the_qpu(client: ServerlessClient) -> None:
    job = run(client, "sampler", backend="ibm_torino")
    result: dict[str, Any] = job.result(timeout=300)
    assert sum(result["counts"].values()) == 1000
    assert charged(job)["RUNNING: EXECUTING_QPU"] > 0


def test_an_estimator_in_a_session(client: ServerlessClient) -> None:
    result: dict[str, Any] = run(client, "estimator", backend="ibm_torino").result(timeout=300)
    assert result["energy"] == pytest.approx(2.0, abs=0.1)


def test_clients_of_qiskit_serverless_are_served_over_tls(deployment: Deployment, client: ServerlessClient) -> None:
    run(client, "status_example").result(timeout=600)
    url, ca = f"https://127.0.0.1:{deployment.rest_port}/api/v1/programs/", deployment.secrets / "ca.pem"
    bearer = {"Authorization": f"Bearer {deployment.secret('admin_token')}"}
    listed = requests.get(url, headers=bearer, verify=str(ca), timeout=30)
    assert listed.status_code == requests.codes.ok
    assert "status_example" in {function["title"] for function in listed.json()}
    assert requests.get(url, verify=str(ca), timeout=30).status_code == requests.codes.unauthorized
    with pytest.raises(requests.ConnectionError):
        requests.get(url.replace("https", "http"), headers=bearer, timeout=30)


def test_tasks_run_on_both_workers(submit: Callable[..., Job], tell: Callable[[str], None]) -> None:
    job = submit(ON_EVERY_WORKER)
    until_logged(job, *["is here\n"] * 2)
    tell("both.tar")
    assert job.result(timeout=600) == "done"
    assert {task.worker for task in job.tasks()} == {"worker-1", "worker-2"}


def test_memory_is_enforced_without_control_groups(deployment: Deployment, submit: Callable[..., Job]) -> None:
    before = [deployment.inspect(worker)["State"]["StartedAt"] for worker in ("worker-1", "worker-2")]
    assert "300" in str(submit(TOO_MUCH).result(timeout=600))
    after = [deployment.inspect(worker)["State"]["StartedAt"] for worker in ("worker-1", "worker-2")]
    assert before == after, "the worker itself goes on"


@pytest.fixture
def channel(deployment: Deployment) -> Iterator[grpc.Channel]:
    trusted = grpc.ssl_channel_credentials((deployment.secrets / "ca.pem").read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{deployment.port}", trusted) as channel:
        yield channel


def tar_of(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def test_upload_run_watch_and_result_by_the_stubs_alone(deployment: Deployment, channel: grpc.Channel) -> None:
    token = (("authorization", f"Bearer {deployment.secret('admin_token')}"),)
    artifact = tar_of("program.py", PLAIN)
    header = functions_pb2.UploadFunctionHeader(
        spec=functions_pb2.FunctionSpec(title="plain-grpc", entrypoint="program.py"),
        artifact_digest=hashlib.sha256(artifact).hexdigest(),
        artifact_bytes=len(artifact),
    )
    parts = [functions_pb2.UploadFunctionRequest(header=header), functions_pb2.UploadFunctionRequest(chunk=artifact)]
    functions_pb2_grpc.FunctionServiceStub(channel).UploadFunction(iter(parts), metadata=token, timeout=30)
    jobs = jobs_pb2_grpc.JobServiceStub(channel)
    request = jobs_pb2.RunRequest(
        function_title="plain-grpc", arguments_json=json.dumps({"n": 21}).encode(), idempotency_key=uuid.uuid4().hex
    )
    job_id = jobs.Run(request, metadata=token, timeout=30).job.job_id
    watched = [r.job for r in jobs.WatchJob(jobs_pb2.WatchJobRequest(job_id=job_id), metadata=token, timeout=600)]
    assert watched[-1].state == types_pb2.JOB_STATE_DONE
    log = jobs.StreamLogs(jobs_pb2.StreamLogsRequest(job_id=job_id, follow=True), metadata=token, timeout=60)
    assert b"".join(piece.chunk for piece in log) == b"hello from the program\n"
    result = jobs.GetResult(jobs_pb2.GetResultRequest(job_id=job_id), metadata=token, timeout=30)
    assert json.loads(b"".join(piece.chunk for piece in result)) == {"doubled": 42}


def test_without_a_token_nothing_is_served(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        jobs_pb2_grpc.JobServiceStub(channel).ListJobs(jobs_pb2.ListJobsRequest(), timeout=30)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_without_tls_nothing_is_served(deployment: Deployment) -> None:
    token = (("authorization", f"Bearer {deployment.secret('admin_token')}"),)
    with grpc.insecure_channel(f"127.0.0.1:{deployment.port}") as channel, pytest.raises(grpc.RpcError) as caught:
        jobs_pb2_grpc.JobServiceStub(channel).ListJobs(jobs_pb2.ListJobsRequest(), metadata=token, timeout=30)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
