"""Functions: uploaded, found, run with values both ways, their arguments held to a schema."""

from __future__ import annotations

from typing import Any

import numpy as np
import qiskit_serverless
from qiskit import QuantumCircuit
from qiskit_serverless import Job, QiskitFunction, ServerlessClient

from .cells import MISSING, OLD, World, cell, refused, wait_for

SCHEMA = {"type": "object", "required": ["shots"], "properties": {"shots": {"type": "integer"}}}


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
    outside = QiskitFunction(title="bad", entrypoint="../programs/values.py", working_dir="programs")
    refused(
        lambda: world.client.upload(outside), "Invalid entrypoint. It must be a relative path to a .py file without"
    )
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


def bell() -> QuantumCircuit:
    """Return a circuit."""
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


@cell("RunnableQiskitFunction.run")
def run_of_function(world: World) -> None:
    circuit = bell()
    array = np.random.default_rng(1).random(400_000)  # 3 MB: more than travels in one message, there and back.
    job = world.over("values", circuit=circuit, array=array)
    result = job.result()
    assert np.array_equal(result["twice"], array * 2)
    assert result["circuit"] == circuit
    assert result["depth"] == 3


@cell("@distribute_qiskit_function")
def distributed(world: World) -> str | None:
    if not hasattr(qiskit_serverless, "distribute_qiskit_function"):
        return MISSING

    def halves(circuit: Any, shots: int) -> dict[str, Any]:
        return {"circuit": circuit, "half": shots // 2}

    job = qiskit_serverless.distribute_qiskit_function(provider=world.client)(halves)(circuit=bell(), shots=10)
    wait_for(lambda: job.status() in {"DONE", "ERROR"}, "the end of the function")
    assert job.result() == {"circuit": bell(), "half": 5}
    return None


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
