"""What is loaded when, and that both names of the package give the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import qonduit

NAMES = [
    *("get_arguments", "save_result", "update_status", "get_logger", "is_running_in_serverless"),
    *("distribute_task", "get", "put", "Job", "QiskitFunction", "Configuration"),
    *("IBMServerlessClient", "ServerlessClient", "QiskitServerlessException"),
]
HEAVY = "{'grpc', 'qiskit', 'numpy', 'rich', 'typer', 'asyncio', 'google.protobuf'}"


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_qonduit_loads_nothing_heavy() -> None:
    run(f"import sys, qonduit\nassert not {HEAVY} & set(sys.modules), {HEAVY} & set(sys.modules)")


def test_making_a_client_loads_nothing_heavy() -> None:
    run(
        "import sys, qonduit\nqonduit.ServerlessClient(host='127.0.0.1:1', token='x')\n"
        f"qonduit.QiskitFunction(title='t')\nqonduit.Job.MAPPING\nassert not {HEAVY} & set(sys.modules)"
    )


def test_the_names_users_know_are_there() -> None:
    for name in NAMES:
        assert getattr(qonduit, name) is not None
    assert set(qonduit.__all__) <= set(dir(qonduit))
    with pytest.raises(AttributeError, match="nothing"):
        qonduit.nothing  # noqa: B018


def test_qiskit_serverless_is_the_same() -> None:
    compat = Path(qonduit.__file__).parent / "compat"
    run(
        f"import sys\nsys.path.insert(0, {str(compat)!r})\n"
        f"from qiskit_serverless import {', '.join(NAMES)}\nimport qonduit, qiskit_serverless\n"
        # Theirs says of each line whether a provider's users may see it.
        f"same = set({NAMES!r}) - {{'get_logger'}}\n"
        "assert all(getattr(qonduit, name) is getattr(qiskit_serverless, name) for name in same)\n"
        "try:\n    from qiskit_serverless import nothing_of_theirs\n"
        "except ImportError:\n    pass\nelse:\n    raise AssertionError\n"
    )


def test_a_job_has_the_stages_as_constants() -> None:
    from qonduit.program.api import _STAGES  # noqa: PLC0415 - Beside its only use.

    for stage in ("MAPPING", "OPTIMIZING_HARDWARE", "WAITING_QPU", "EXECUTING_QPU", "POST_PROCESSING"):
        assert getattr(qonduit.Job, stage) in _STAGES
