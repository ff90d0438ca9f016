"""The same sandboxes for a worker that is an ordinary user, and the next best ones where there are no namespaces."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # Each runs whole files.

HERE = Path(__file__).parent
NOBODY = 65534
# Nothing is written below the checkout, which this user may not do.
PYTEST = (
    "-m",
    "pytest",
    "-q",
    "-m",
    "not slow",  # That programs transpile has nothing to do with users.
    "-p",
    "no:cacheprovider",
    "--rootdir",
    str(HERE),
    "-c",
    str(HERE.parents[2] / "pyproject.toml"),
)
AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


def run_as(uid: int, *arguments: str, **environment: str) -> str:
    command = [sys.executable, str(HERE / "programs" / "as_other.py"), str(uid), sys.executable, *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1", **environment}  # noqa: S108
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd="/", timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@AS_ROOT
@pytest.mark.parametrize(
    "name", ["test_sandbox_program.py", "test_sandbox_walls.py", "test_sandbox_tree.py", "test_zygote_base.py"]
)
def test_an_ordinary_user_gets_the_same_sandboxes(name: str) -> None:
    probe = "from qonduit_worker.sandbox import probe; print(probe().tier)"
    if run_as(NOBODY, "-c", probe) != "A\n":
        pytest.skip("this machine gives ordinary users no namespaces")
    told = run_as(NOBODY, *PYTEST, str(HERE / name))
    assert " passed" in told
    assert "failed" not in told


@AS_ROOT
@pytest.mark.parametrize("tier", ["B", "C"])
def test_without_namespaces(tier: str) -> None:
    told = run_as(0, *PYTEST, str(HERE / "open_tiers.py"), QONDUIT_TEST_TIER=tier)
    assert " passed" in told
