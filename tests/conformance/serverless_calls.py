"""Calls everything that the public client of Qiskit Serverless has, in an environment of that client's version.

python serverless_calls.py HOST TOKEN    # prints, as JSON, what came of each method

Each cell asserts what a user relies on. It returns nothing where that holds, or says in what the method differs.

One file on purpose: interpreters run it that have nothing else of this repository.
"""

from __future__ import annotations

import json
import sys
import tarfile
import time
import traceback
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import qiskit_serverless
import requests
from qiskit import QuantumCircuit
from qiskit_serverless import Job, QiskitFunction, QiskitServerlessException, ServerlessClient
from qiskit_serverless.core.function import RunnableQiskitFunction

if TYPE_CHECKING:
    from collections.abc import Callable

MISSING = "not in it"
NOT_YET = "not yet: functions of providers"
OLD = qiskit_serverless.__version__.startswith("0.22.")
"""Shows no details of a refusal to anybody."""
OWNERS = {"ServerlessClient": ServerlessClient, "RunnableQiskitFunction": RunnableQiskitFunction, "Job": Job}
PROGRAMS = {
    "values.py": """
from qiskit_serverless import get_arguments, save_result
arguments = get_arguments()
print("[PUBLIC] got", sorted(arguments))
print("a second line")
save_result({"twice": arguments["array"] * 2, "circuit": arguments["circuit"], "depth": arguments["circuit"].depth()})
""",
    "second.py": """
import time
from qiskit_serverless import save_result
time.sleep(1)
save_result({"slept": 1})
""",
    "fails.py": """
print("so far so good")
raise ValueError("the lamp is broken")
""",
    "told.py": """
from qiskit_serverless import (
    ServerlessError, get_compute_profile, get_function_size, get_logger, get_provider_logger, is_running_in_serverless,
    is_trial,
)
assert is_running_in_serverless() and not is_trial() and get_function_size() == get_compute_profile() == ""
get_logger().info("for all")
get_provider_logger().info("for\\nsome")
raise ServerlessError("E42", "the lamp is broken", {"lamp": 7})
""",
    "stages.py": """
import time
from qiskit_serverless import Job, update_status
update_status(Job.MAPPING)
time.sleep(600)
""",
    "qpu.py": """
from qiskit import QuantumCircuit, transpile
from qiskit_ibm_runtime import SamplerV2, Session
from qiskit_serverless import get_runtime_service, save_result
backend = get_runtime_service().backend("ibm_torino")
circuit = QuantumCircuit(1)
circuit.h(0)
circuit.measure_all()
with Session(backend=backend) as session:
    job = SamplerV2(mode=session).run([transpile(circuit, backend, optimization_level=0)], shots=10)
    job.result()
    save_result({"job": job.job_id(), "session": session.session_id})
""",
}
SCHEMA = {"type": "object", "required": ["shots"], "properties": {"shots": {"type": "integer"}}}
CELLS: list[tuple[str, Callable[[World], str | None]]] = []


class World:
    """The client, and what the cells made so far."""

    def __init__(self, host: str, token: str) -> None:
        self.host, self.token = host, token
        self.client: Any = None
        self.made: dict[str, Any] = {}

    def function(self, name: str) -> Any:
        """Return an uploaded function."""
        if name not in self.made:
            self.made[name] = self.client.upload(
                QiskitFunction(title=name, entrypoint=f"{name}.py", working_dir="programs")
            )
        return self.made[name]

    def over(self, name: str, **arguments: Any) -> Any:
        """Return a job of a program that is over, the same one each time."""
        if f"job of {name}" not in self.made:
            job = self.made[f"job of {name}"] = self.function(name).run(**arguments)
            wait_for(lambda: job.status() in {"DONE", "ERROR"}, f"the end of {name}")
        return self.made[f"job of {name}"]


def cell(name: str) -> Callable[[Any], Any]:
    """Add a cell of the table."""

    def add(check: Any) -> Any:
        CELLS.append((name, check))
        return check

    return add


def wait_for(holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Poll, as a user would, until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"still waiting for {what}"
        time.sleep(0.1)


def told(call: Callable[[], Any], kind: type[Exception] = QiskitServerlessException) -> str:
    """Return the text of a refusal."""
    try:
        value = call()
    except kind as error:
        return str(error)
    raise AssertionError(f"gave {value!r} where a refusal was due")


def refused(call: Callable[[], Any], *texts: str, kind: type[Exception] = QiskitServerlessException) -> None:
    """Assert that a call is refused, with texts that a user sees (but not in versions that show none)."""
    shown = told(call, kind)
    for text in () if OLD else texts:
        assert text in shown, f"{text!r} is not in {shown}"


@cell("ServerlessClient()")
def connect(world: World) -> None:
    world.client = ServerlessClient(host=world.host, token=world.token, instance="any")
    if not OLD:
        ServerlessClient(host=world.host + "/", token=world.token, channel="local")
    text = "Credentials couldn't be verified"
    refused(lambda: ServerlessClient(host=world.host, token="wrong", instance="any"), text, "token is not valid", "401")


@cell("ServerlessClient.upload")
def upload(world: World) -> str | None:
    function = world.client.upload(
        QiskitFunction(
            title="values", entrypoint="values.py", working_dir="programs", dependencies=["numpy"], env_vars={"A": "b"}
        )
    )
    assert (function.title, function.entrypoint, function.provider) == ("values", "values.py", None)
    assert function.dependencies == ["numpy"], function.dependencies
    world.made["values"] = function
    bad = QiskitFunction(title="bad", entrypoint="values.py", working_dir="programs", dependencies=["no such thing"])
    refused(lambda: world.client.upload(bad), "'no such thing' is not a requirement", "400")
    missing = QiskitFunction(title="bad", entrypoint="none.py", working_dir="programs")
    refused(lambda: world.client.upload(missing), "Entrypoint file [none.py] does not exist")
    image = QiskitFunction(title="bad", image="registry/image", entrypoint="values.py", working_dir="programs")
    refused(lambda: world.client.upload(image), "Custom images are only available if you are a provider.")
    return "differs: any package may be named as a dependency, and is installed for the function"


@cell("ServerlessClient.functions")
def functions(world: World) -> None:
    world.function("second")
    assert {each.title for each in world.client.functions()} == {"values", "second"}
    assert world.client.functions(filter="catalog") == []


@cell("ServerlessClient.function")
def function(world: World) -> None:
    assert world.client.function("values").entrypoint == "values.py"
    refused(lambda: world.client.function("nothing"), "Qiskit Function nothing doesn't exist.", "404")
    refused(lambda: world.client.function("somebody/nothing"), "Qiskit Function somebody/nothing doesn't exist.")


@cell("ServerlessClient.list")
def list_functions(world: World) -> None:
    assert len(world.client.list()) == 2


@cell("ServerlessClient.get")
def get_function(world: World) -> None:
    assert world.client.get("values").title == "values"


@cell("ServerlessClient.run")
def run(world: World) -> str | None:
    job = world.client.run("second", arguments={"text": "é"})
    assert isinstance(job, Job)
    assert job.job_id
    refused(lambda: world.client.run("nothing"), "Qiskit Function nothing doesn't exist.")
    return "differs: a Configuration is taken and not needed, as tasks find their room by themselves"


@cell("RunnableQiskitFunction.run")
def run_of_function(world: World) -> None:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    array = np.random.default_rng(1).random(400_000)  # 3 MB: more than travels in one message, there and back.
    job = world.over("values", circuit=circuit, array=array)
    result = job.result()
    assert np.array_equal(result["twice"], array * 2)
    assert result["circuit"] == circuit
    assert result["depth"] == 3


def seconds_of_a_second(world: World) -> float:
    """Return how long a user waits for a job of one second."""
    began = time.monotonic()
    assert world.function("second").run().result() == {"slept": 1}
    return time.monotonic() - began


@cell("Job.result")
def result(world: World) -> str | None:
    # On a busy machine a job may take longer than its first poll is held; then the client sleeps 30 s, as ever.
    assert any(seconds_of_a_second(world) < 15 for _ in range(3)), "no job of one second returned at once"
    shown = told(world.over("fails").result)
    assert "the lamp is broken" in shown, shown
    return "differs: a job of less than three seconds returns at once, not after 30 s"


@cell("Job.status")
def status(world: World) -> str | None:
    assert world.over("values").status() == "DONE"
    assert world.over("fails").status() == "ERROR"
    job = world.made["staged"] = world.function("stages").run()
    wait_for(lambda: job.status() == "RUNNING: MAPPING", "the stage")
    return "differs: takes up to three seconds in the job's first three"


@cell("Job.in_terminal_state")
def in_terminal_state(world: World) -> None:
    assert world.over("values").in_terminal_state()
    assert not world.made["staged"].in_terminal_state()


@cell("Job.cancel")
def cancel(world: World) -> str | None:
    job = world.made["staged"]
    message = job.cancel()  # Newer clients look for a service of IBM's before, and go on without one.
    assert message == "Job has been stopped.", message
    assert job.status() == "CANCELED"
    assert job.result() == {}
    return 'differs: QPU jobs end with the job, whatever service is given; channel="local" can\'t in this client itself'


@cell("Job.stop")
def stop(world: World) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        message = world.over("values").stop()
    assert message == "Job already in terminal state.", message


@cell("Job.logs")
def logs(world: World) -> None:
    assert world.over("values").logs() == "got ['array', 'circuit']\na second line\n"
    assert "No logs yet." in world.made["staged"].logs()


@cell("Job.filtered_logs")
def filtered_logs(world: World) -> None:
    assert world.over("values").filtered_logs(include="second") == "a second line\n"
    assert world.over("values").filtered_logs(exclude="second") == "got ['array', 'circuit']\n"


@cell("in programs: loggers, ServerlessError")
def loggers_and_errors(world: World) -> None:
    job = world.over("told")
    for line in ("for all\n", "\nINFO: for\nsome\n"):
        assert line in job.logs(), job.logs()
    assert "[E42] the lamp is broken\n{'lamp': 7}" in job.error_message()


@cell("Job.error_message")
def error_message(world: World) -> None:
    said = world.over("fails").error_message()
    assert 'raise ValueError("the lamp is broken")' in said, said
    if not OLD:
        assert "| Code: PROGRAM_ERROR\n| Exception: ValueError: the lamp is broken" in said, said
        assert world.over("values").error_message() == ""


@cell("Job.events")
def events(world: World) -> None:
    changes = world.over("fails").events()
    assert [each.data.get("status") for each in changes if each.event_type == "STATUS_CHANGE"] == [
        "FAILED",
        "RUNNING",
        "PENDING",
        "QUEUED",
    ]
    stages = [each.data for each in world.made["staged"].events() if each.event_type == "SUB_STATUS_CHANGE"]
    assert stages == [{"sub_status": "MAPPING"}], stages
    assert [each.event_type for each in world.over("fails").events(type="ERROR")] == ["ERROR"]
    refused(lambda: world.over("fails").events(type="OTHER"), "Type is not valid. Valid types: ['ERROR']")


@cell("Job.runtime_jobs")
def runtime_jobs(world: World) -> None:
    assert world.over("values").runtime_jobs() == []
    job = world.over("qpu")
    result = job.result()
    assert job.runtime_jobs() == [result["job"]], job.runtime_jobs()
    assert job.runtime_jobs(runtime_session=result["session"]) == [result["job"]]


@cell("Job.runtime_sessions")
def runtime_sessions(world: World) -> None:
    job = world.over("qpu")
    assert job.runtime_sessions() == [job.result()["session"]]


@cell("Job.provider_logs")
def provider_logs(world: World) -> str:
    job = world.over("values")
    refused(job.provider_logs, f"You don't have access to job [{job.job_id}]", "403")
    return NOT_YET


@cell("ServerlessClient.jobs")
def jobs(world: World) -> None:
    every = [job.job_id for job in world.client.jobs(limit=100)]
    assert len(every) >= 5
    paged = [job.job_id for at in range(0, len(every) + 2, 2) for job in world.client.jobs(limit=2, offset=at)]
    assert paged == every
    done = world.client.jobs(status="DONE", limit=100)
    assert world.over("values").job_id in {job.job_id for job in done}
    assert world.over("fails").job_id not in {job.job_id for job in done}
    soon = datetime.now(UTC) + timedelta(hours=1)
    assert world.client.jobs(created_after=soon) == []
    assert len(world.client.jobs(created_after=soon - timedelta(hours=2), limit=100)) == len(every)
    assert world.client.jobs(filter="catalog") == []


@cell("RunnableQiskitFunction.jobs")
def jobs_of_function(world: World) -> None:
    assert [job.job_id for job in world.function("values").jobs()] == [world.over("values").job_id]


@cell("RunnableQiskitFunction.get_jobs")
def get_jobs_of_function(world: World) -> None:
    assert len(world.function("values").get_jobs()) == 1


@cell("ServerlessClient.get_jobs")
def get_jobs(world: World) -> None:
    assert len(world.client.get_jobs(limit=3)) == 3


@cell("ServerlessClient.job")
def job(world: World) -> None:
    found = world.client.job(world.over("values").job_id)
    assert found.status() == "DONE"
    assert "twice" in found.result()
    refused(lambda: world.client.job("nothing"), "Job [nothing] not found", "404")


@cell("ServerlessClient.get_job_by_id")
def get_job_by_id(world: World) -> None:
    assert world.client.get_job_by_id(world.over("values").job_id).status() == "DONE"


@cell("ServerlessClient.file_upload")
def file_upload(world: World) -> str | None:
    with tarfile.open("data.tar", "w") as archive:
        archive.add("programs")
    assert json.loads(world.client.file_upload("data.tar", world.function("values"))) == {"message": "data.tar"}
    Path("data.txt").write_text("text")
    if not OLD:  # Which tells that by its answer alone.
        refused(
            lambda: world.client.file_upload("data.txt", world.function("values")), "Upload failed: ", "in .tar or .h5"
        )
    return "differs: takes .tar and .h5, as the documentation says, by their names"


@cell("ServerlessClient.files")
def files(world: World) -> None:
    assert world.client.files(world.function("values")) == ["data.tar"]


@cell("ServerlessClient.file_download")
def file_download(world: World) -> None:
    world.client.file_download("data.tar", world.function("values"), target_name="again.tar")
    assert Path("again.tar").read_bytes() == Path("data.tar").read_bytes()
    call = world.client.file_download
    refused(lambda: call("none.tar", world.function("values")), "404 Client Error", kind=requests.HTTPError)


@cell("ServerlessClient.file_delete")
def file_delete(world: World) -> None:
    assert world.client.file_delete("data.tar", world.function("values")) == "Requested file was deleted."
    refused(lambda: world.client.file_delete("data.tar", world.function("values")), "Requested file was not found.")


@cell("ServerlessClient.validate_arguments")
def validate_arguments(world: World) -> None:
    world.made["checked"] = world.client.upload(
        QiskitFunction(title="checked", entrypoint="second.py", working_dir="programs", arguments_schema=SCHEMA)
    )
    assert world.client.function("checked").arguments_schema == SCHEMA
    assert world.client.validate_arguments("checked", {"shots": 5}) == {"valid": True}
    refused(lambda: world.client.validate_arguments("checked", {"shots": "many"}), "400", "shots", "is not of type")
    refused(lambda: world.client.run("checked", {}), "400", '"shots" is a required property')


@cell("RunnableQiskitFunction.validate_arguments")
def validate_arguments_of_function(world: World) -> None:
    assert world.made["checked"].validate_arguments({"shots": 5}) == {"valid": True}


@cell("ServerlessClient.dependencies_versions")
def dependencies_versions(world: World) -> str:
    assert world.client.dependencies_versions() == []
    return "differs: lists none, as functions may name any package"


@cell("RunnableQiskitFunction.sizes")
def sizes(world: World) -> str:
    assert not world.function("values").sizes()
    refused(lambda: world.function("second").run(function_size="s"), "functions have no sizes here")
    return "differs: functions have no sizes; a run that names one is refused"


@cell("ServerlessClient.provider_jobs")
def provider_jobs(world: World) -> str:
    refused(lambda: world.client.provider_jobs(QiskitFunction("somebody/function")), "not offered by this server yet")
    return NOT_YET


@cell("ServerlessClient.provider_files")
def provider_files(world: World) -> str:
    refused(lambda: world.client.provider_files(QiskitFunction("somebody/function")), "not offered by this server yet")
    return NOT_YET


def outcome(name: str, check: Callable[[World], str | None], world: World) -> str:
    """Return what came of a cell."""
    owner, _, method = name.partition(".")
    if method and not hasattr(OWNERS[owner], method):
        return MISSING
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return check(world) or "works"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what came of it.
        traceback.print_exc()
        return f"fails: {type(error).__name__}: {error}"


def main() -> None:
    """Make the programs, run all cells, print what came of them."""
    Path("programs").mkdir()
    for name, text in PROGRAMS.items():
        (Path("programs") / name).write_text(text)
    world = World(*sys.argv[1:3])
    sys.stdout.write(json.dumps({name: outcome(name, check, world) for name, check in CELLS}) + "\n")


if __name__ == "__main__":
    main()
