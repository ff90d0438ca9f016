"""A worker's sandboxes, real ones, for the tests of this folder."""

import asyncio
import shutil
import tempfile
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from qonduit_worker.sandbox import (
    CgroupTree,
    Exit,
    Limits,
    SandboxConfig,
    Sandboxed,
    SandboxReport,
    SandboxSpec,
    Zygote,
    probe,
)

PROGRAMS = Path(__file__).with_name("programs")
MIB = 1024 * 1024
LIMITS = Limits(cpu=1.0, mem_bytes=256 * MIB, tmp_bytes=16 * MIB, file_bytes=64 * MIB, pids=64)


class Sandboxes:
    """Forks programs from one zygote, each with a folder of its own."""

    def __init__(self, zygote: Zygote, folder: Path) -> None:
        self.zygote = zygote
        self.folder = folder
        self._numbers = count()

    def spec(self, code: str, *, limits: Limits = LIMITS, environment: dict[str, str] | None = None) -> SandboxSpec:
        """A sandbox, not made yet, that runs these lines."""
        number = next(self._numbers)
        directory = self.folder / f"box-{number}"
        for name in ("job", "data", "run"):
            (directory / name).mkdir(parents=True)
        return SandboxSpec(
            sandbox_id=f"box-{number}",
            directory=directory,
            limits=limits,
            environment={"CODE": textwrap.dedent(code), **(environment or {})},
            entry="sandbox_program:run_code",
        )

    async def fork(self, code: str, **options: object) -> Sandboxed:
        """Start these lines in a sandbox."""
        return await self.zygote.fork(self.spec(code, **options))  # type: ignore[arg-type]

    async def run(self, code: str, **options: object) -> tuple[str, Exit]:
        """Run these lines to their end; returns what they printed, and how they ended."""
        sandbox = await self.fork(code, **options)
        output = (await sandbox.output.read()).decode()
        return output, await sandbox.wait()


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
    await asyncio.sleep(0)


@pytest.fixture
def limits() -> Limits:
    return LIMITS


@pytest.fixture
def make_sandboxes(worker_folder: Path) -> Callable[[Zygote], Sandboxes]:
    """For tests that start a zygote of their own."""
    return lambda zygote: Sandboxes(zygote, worker_folder)
