"""Runs programs with tasks as clients of Qiskit Serverless before 0.37 have them, in an environment of such a client.

python task_calls.py HOST TOKEN    # prints "done" when all came as a user expects
"""

from __future__ import annotations

import sys
from pathlib import Path

from qiskit import QuantumCircuit
from qiskit_serverless import QiskitFunction, ServerlessClient, distribute_qiskit_function

SPREADS = """
from qiskit import QuantumCircuit, transpile
from qiskit_ibm_runtime.fake_provider import FakeTorino
from qiskit_serverless import distribute_task, get, get_arguments, get_refs_by_status, put, save_result

arguments = get_arguments()

@distribute_task(target={"cpu": 1, "mem": 512 * 1024**2})
def prepared(circuit, backend):
    return transpile(circuit, backend, optimization_level=1)

@distribute_task(target={"cpu": 0.5, "mem": 256 * 1024**2, "gpu": 0})
def added(first, second):
    return first + second

@distribute_task()
def waited(number):
    import time
    time.sleep(number)
    return number

backend = put(FakeTorino())
circuits = get([prepared(circuit, backend) for circuit in arguments["circuits"]])
quick, slow = waited(0), waited(600)
done, pending = get_refs_by_status([quick, slow], num_returns=1, timeout=300)
save_result({
    "qubits": [circuit.num_qubits for circuit in circuits],
    "circuit": circuits[0],
    "added": get(added(added(1, 2), put(3))),
    "one": get(quick),
    "counts": [len(done), len(pending)],
})
"""


def circuit(width: int) -> QuantumCircuit:
    """Return a small circuit."""
    made = QuantumCircuit(width)
    made.h(0)
    for qubit in range(width - 1):
        made.cx(qubit, qubit + 1)
    made.measure_all()
    return made


def spread(client: ServerlessClient) -> None:
    """Have a program do its work in tasks."""
    Path("spreads").mkdir()
    Path("spreads/main.py").write_text(SPREADS)
    client.upload(QiskitFunction(title="spreads", entrypoint="main.py", working_dir="spreads"))
    job = client.run("spreads", arguments={"circuits": [circuit(2), circuit(3)]})
    result = job.result(cadence=1)
    assert isinstance(result.pop("circuit"), QuantumCircuit), job.logs()
    assert result == {"qubits": [133, 133], "added": 6, "one": 0, "counts": [1, 1]}, (result, job.logs())


def send_function(client: ServerlessClient) -> None:
    """Run a Python function of this process as a job."""

    @distribute_qiskit_function(provider=client)
    def shifted(numbers):  # noqa: ANN001, ANN202 -- as its users write it.
        from qiskit_serverless import distribute_task, get, save_result  # noqa: PLC0415 -- it runs elsewhere.

        @distribute_task(target={"cpu": 1})
        def beside(number):  # noqa: ANN001, ANN202
            return number + 40

        save_result({"shifted": get([beside(number) for number in numbers])})

    job = shifted(numbers=[1, 2])
    assert job.result(cadence=1) == {"shifted": [41, 42]}, job.logs()


if __name__ == "__main__":
    serverless = ServerlessClient(host=sys.argv[1], token=sys.argv[2], instance="any")
    spread(serverless)
    send_function(serverless)
    sys.stdout.write("done\n")
