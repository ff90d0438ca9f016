"""Functions that bring packages of their own, as their authors see them."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING

import pytest
from qonduit import QiskitFunction
from qonduit_worker.dependencies.testing import write_wheel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from qonduit import Job, ServerlessClient

    Run = Callable[[str, Sequence[str]], Job]


@pytest.fixture
def run(client: ServerlessClient, tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    def run_with(text: str, dependencies: Sequence[str]) -> Job:
        (tmp_path / "program.py").write_text(text)
        title = request.node.name.replace("_", "-")[:80]
        function = QiskitFunction(
            title=title, entrypoint="program.py", working_dir=str(tmp_path), dependencies=list(dependencies)
        )
        return client.upload(function).run()

    return run_with


def test_a_program_and_its_tasks_import_what_the_function_depends_on(run: Run, wheels: Path) -> None:
    write_wheel(wheels, "own_package", "1.5", requires=["own_part"])
    write_wheel(wheels, "own_part", "2.5")
    job = run(
        "from qiskit_serverless import distribute_task, get, save_result\n"
        "import own_package\n"
        "@distribute_task()\ndef version():\n    import own_part\n    return own_part.version\n"
        "save_result([own_package.version, get(version())])\n",
        ["own-package>=1", "numpy>=2"],
    )
    assert job.result(timeout=300) == ["1.5", "2.5"]
    log = job.logs()
    assert "[qonduit] building the environment of this function: numpy>=2, own-package>=1" in log
    assert "2 packages: own-package==1.5, own-part==2.5" in log
    assert "[qonduit] built in" in log


def test_another_version_of_what_is_loaded_already_and_a_qpu_beside_it(run: Run, wheels: Path) -> None:
    six = importlib.import_module("six")
    source = inspect.getsource(six).replace(f'"{six.__version__}"', '"99.0"')
    write_wheel(wheels, "six", "99.0", files={"six.py": source})
    job = run(
        "import six\n"
        "from qiskit import QuantumCircuit, generate_preset_pass_manager\n"
        "from qiskit_ibm_runtime import QiskitRuntimeService, SamplerV2\n"
        "from qiskit_serverless import save_result\n"
        "service = QiskitRuntimeService(channel='ibm_quantum_platform', token='of somebody')\n"
        "backend = service.least_busy()\n"
        "circuit = QuantumCircuit(1)\ncircuit.measure_all()\n"
        "circuit = generate_preset_pass_manager(optimization_level=0, backend=backend).run(circuit)\n"
        "counts = SamplerV2(mode=backend).run([circuit], shots=8).result()[0].data.meas.get_counts()\n"
        "save_result([six.__version__, counts])\n",
        ["six>=99"],
    )
    assert job.result(timeout=300) == ["99.0", {"0": 8}]
    assert "instead of the worker's own six" in job.logs()
