"""A sandbox is one tree that dies as one, whoever dies first, and leaves nothing behind."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest
from qonduit_service_kit.testing import halt
from qonduit_worker.sandbox import (
    CgroupTree,
    SandboxConfig,
    SandboxReport,
    SandboxStartError,
    Usage,
    Zygote,
    ZygoteDiedError,
    sweep,
)
from qonduit_worker.sandbox.testing import ENDING, STUBBORN, Sandboxes, all_gone, handles

PROGRAMS = Path(__file__).with_name("programs")


async def test_kill_leaves_no_process(sandboxes: Sandboxes) -> None:
    sandbox = await sandboxes.fork(STUBBORN)
    await sandbox.output.readline()
    pidfds = handles(sandbox.processes())
    assert len(pidfds) == 5
    sandbox.kill()
    sandbox.kill()
    assert (await sandbox.wait()).signal == signal.SIGKILL
    assert all_gone(pidfds)
    assert await sandbox.output.read() == b""


async def test_the_end_of_the_program_is_the_end_of_what_it_started(sandboxes: Sandboxes) -> None:
    spec = sandboxes.spec(ENDING)
    sandbox = await sandboxes.zygote.fork(spec)
    await sandbox.output.readline()
    pidfds = handles(sandbox.processes())
    assert len(pidfds) == 5
    (spec.directory / "job" / "go").touch()
    assert (await sandbox.wait()).exit_code == 5
    assert all_gone(pidfds)
    await sandbox.output.read()


async def test_the_end_is_told_even_if_the_control_group_stays_busy(
    sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qonduit_worker.sandbox.cgroups._REMOVE_PATIENCE_S", 0.0)
    sandbox = await sandboxes.fork("import time; time.sleep(600)")
    below = [folder / "below" for folder in sandbox._parts.cgroup.folders]
    for folder in below:
        folder.mkdir()
    sandbox.kill()
    assert (await asyncio.wait_for(sandbox.wait(), 60)).signal == signal.SIGKILL
    for folder in below:
        folder.rmdir()
        folder.parent.rmdir()
    await sandbox.output.read()


async def test_when_the_zygote_dies_its_sandboxes_do_and_it_starts_again(sandboxes: Sandboxes) -> None:
    sandbox = await sandboxes.fork(STUBBORN)
    await sandbox.output.readline()
    pidfds = handles(sandbox.processes())
    os.kill(sandboxes.zygote.pid, signal.SIGKILL)
    assert (await sandbox.wait()).signal == signal.SIGKILL
    assert all_gone(pidfds, timeout_s=60)
    await sandbox.output.read()
    await sandboxes.zygote.died()
    assert not sandboxes.zygote.running
    with pytest.raises(ZygoteDiedError):
        await sandboxes.fork("pass")
    await sandboxes.zygote.start()
    assert (await sandboxes.run("print('again')"))[0] == "again\n"


async def test_a_zygote_that_hangs_is_given_up_and_starts_again(
    sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as hasty:
        hasty.setattr("qonduit_worker.sandbox.zygote._FORK_TIMEOUT_S", 0.1)
        halt(sandboxes.zygote.pid)
        with pytest.raises(SandboxStartError, match="was not ready"):
            await sandboxes.fork("pass")
    async with asyncio.timeout(60):
        await sandboxes.zygote.died()
        await sandboxes.zygote.stop()
    await sandboxes.zygote.start()
    assert (await sandboxes.run("print('again')"))[0] == "again\n"


async def test_the_end_is_told_even_if_what_was_used_cannot_be_read(
    sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await sandboxes.fork("import time; time.sleep(600)")
    monkeypatch.setattr(sandbox._parts.meter, "settle", _unreadable)
    sandbox.kill()
    with pytest.raises(OSError, match="unreadable"):
        await asyncio.wait_for(sandbox.wait(), 60)
    await sandbox.output.read()


def _unreadable(reported_cpu_s: float) -> Usage:
    raise OSError(f"unreadable, {reported_cpu_s} s")


async def test_a_zygote_that_dies_under_a_fork_is_said(sandboxes: Sandboxes) -> None:
    # Stopped, it takes the order and never answers.
    halt(sandboxes.zygote.pid)
    forking = asyncio.create_task(sandboxes.fork("pass"))
    await asyncio.sleep(0.05)
    os.kill(sandboxes.zygote.pid, signal.SIGKILL)
    with pytest.raises(ZygoteDiedError):
        await forking


async def test_a_fork_that_is_given_up_leaves_nothing(sandboxes: Sandboxes) -> None:
    for _ in range(5):
        forking = asyncio.create_task(sandboxes.fork("import time; time.sleep(600)"))
        await asyncio.sleep(0.001)
        forking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            sandbox = await forking
            sandbox.kill()
            await sandbox.output.read()
    assert (await sandboxes.run("print('still here')"))[0] == "still here\n"


@pytest.mark.parametrize("victim", ["worker", "zygote"])
async def test_when_the_worker_is_killed_everything_dies_and_the_next_one_sweeps(
    worker_folder: Path, sandbox_report: SandboxReport, victim: str
) -> None:
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAMS / "worker_program.py"),
        str(worker_folder),
        sandbox_report.tier,
        stdout=asyncio.subprocess.PIPE,
    )
    pids = [int(word) for word in (await worker.stdout.readline()).split()]
    assert len(pids) == 6
    pidfds = handles(pids)
    os.kill(worker.pid if victim == "worker" else pids[0], signal.SIGKILL)
    assert all_gone(pidfds, timeout_s=60)
    if victim == "zygote":
        worker.kill()
    await worker.wait()
    tree = CgroupTree(worker_folder)
    if tree.folders:
        assert any(folder.exists() for folder in tree.folders)
        assert sweep(worker_folder) >= 1
    assert not any(folder.exists() for folder in tree.folders)
    assert sweep(worker_folder) == 0


async def test_stop_ends_all_and_may_be_repeated(sandboxes: Sandboxes) -> None:
    boxes = [await sandboxes.fork("import time; time.sleep(600)") for _ in range(3)]
    pidfds = handles([sandboxes.zygote.pid, *(pid for box in boxes for pid in box.processes())])
    await asyncio.gather(sandboxes.zygote.stop(), sandboxes.zygote.stop())
    assert all_gone(pidfds)
    await sandboxes.zygote.stop()
    for box in boxes:
        await box.output.read()


@pytest.mark.slow
async def test_many_sandboxes_at_once_leave_no_mount_no_group_no_descriptor(
    sandboxes: Sandboxes, cgroups: CgroupTree
) -> None:
    await sandboxes.run("pass")
    await as_many_groups_as_ever_are_kept_ready(sandboxes.zygote, cgroups)
    before = left_over(sandboxes, cgroups)
    results = await asyncio.gather(*(sandboxes.run(f"print({number})") for number in range(12)))
    assert [output for output, _end in results] == [f"{number}\n" for number in range(12)]
    await asyncio.sleep(0)  # The last pipe is closed one turn after its end was read.
    await as_many_groups_as_ever_are_kept_ready(sandboxes.zygote, cgroups)
    assert left_over(sandboxes, cgroups) == before


async def as_many_groups_as_ever_are_kept_ready(zygote: Zygote, cgroups: CgroupTree) -> None:
    await asyncio.gather(*zygote._hastening)
    cgroups.hasten()


def left_over(sandboxes: Sandboxes, cgroups: CgroupTree) -> tuple[list[str], int, int]:
    """What a sandbox could leave behind: mounts where this process sees them, its descriptors, and control groups."""
    descriptors = list(Path("/proc/self/fd").iterdir())
    groups = [path for folder in cgroups.folders for path in folder.glob("*/")]
    assert all(not (path / "cgroup.procs").read_text() for path in groups)
    # Others mount and unmount beside this test: a zygote's are those at /new and those of its sandboxes' folders.
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    ours = [line for line in mounts if " /new" in line or sandboxes.folder.name in line]
    return ours, len(descriptors), len(groups)


def test_a_zygote_that_was_never_started_can_be_stopped(sandbox_config: SandboxConfig, cgroups: CgroupTree) -> None:
    asyncio.run(Zygote(config=sandbox_config, cgroups=cgroups).stop())
