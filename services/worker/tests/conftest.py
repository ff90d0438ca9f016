"""A worker's sandboxes, real ones, for the tests of this folder."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from qonduit_worker.sandbox import CgroupTree, Limits, SandboxConfig, SandboxReport, Zygote, probe
from qonduit_worker.sandbox.testing import LIMITS, Sandboxes

PROGRAMS = Path(__file__).with_name("programs")


@pytest.fixture(scope="session")
def sandbox_report() -> SandboxReport:
    return probe()


@pytest.fixture
def worker_folder() -> Iterator[Path]:
    # Not pytest's own folder, which only its user may enter.
    folder = Path(tempfile.mkdtemp(prefix="qonduit-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def cgroups(worker_folder: Path) -> Iterator[CgroupTree]:
    tree = CgroupTree(worker_folder)
    tree.prepare()
    yield tree
    tree.close()
    assert not [folder for folder in tree.folders if folder.exists()], "a control group was left behind"


@pytest.fixture
def sandbox_config(worker_folder: Path, sandbox_report: SandboxReport) -> SandboxConfig:
    return SandboxConfig(state_dir=worker_folder / "state", tier=sandbox_report.tier, python_path=(PROGRAMS,))


@pytest.fixture
async def sandboxes(
    sandbox_config: SandboxConfig, cgroups: CgroupTree, worker_folder: Path, sandbox_report: SandboxReport
) -> AsyncIterator[Sandboxes]:
    """Sandboxes of the best tier."""
    if sandbox_report.tier != "A":
        pytest.skip(f"This machine gives no tier A: {sandbox_report.missing}")
    zygote = Zygote(config=sandbox_config, cgroups=cgroups)
    await zygote.start()
    yield Sandboxes(zygote, worker_folder)
    await zygote.stop()
    await asyncio.sleep(0)  # Transports tell their protocols one turn later.


@pytest.fixture
def limits() -> Limits:
    return LIMITS


@pytest.fixture
def make_sandboxes(worker_folder: Path) -> Callable[[Zygote], Sandboxes]:
    """For tests that start a zygote of their own."""
    return lambda zygote: Sandboxes(zygote, worker_folder)
