"""Programs with tasks, sent by the clients of Qiskit Serverless that had tasks, against a stack."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from client_environments import serverless_environment_of
from serverless_people import VERSIONS

if TYPE_CHECKING:
    from serverless_people import RestStack

WITH_TASKS = ("0.22.0", "0.36.0")
SCRIPT = Path(__file__).with_name("task_calls.py")
pytestmark = pytest.mark.timeout(1800)


@pytest.mark.parametrize("version", WITH_TASKS)
def test_programs_with_tasks_run_as_that_client_sends_them(rest_stack: RestStack, version: str, tmp_path: Path) -> None:
    python = serverless_environment_of(version, *VERSIONS[version]).python
    token = rest_stack.qonduit("users", "add", f"with-{version}").stdout.split()[-1]
    done = subprocess.run(
        [python, str(SCRIPT), rest_stack.rest_url, token],
        env=os.environ | {"HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "done"
