"""A sandbox is one tree that dies as one, whoever dies first, and leaves nothing behind."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest
from qonduit_worker.sandbox import CgroupTree, SandboxConfig, SandboxReport, Zygote, ZygoteDiedError, sweep
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


async def test_when_the_zygote_dies_its_sandboxes_do_and_it_starts_again(sandboxes: Sandboxes) -> None:
    sandbox = await sandboxes.fork(STUBBORN)
    await sandbox.output.readline()
    pidfds = handles(sandbox.processes())
    os.kill(sandboxes.zygote.pid, signal.SIGKILL)
    assert (await sandbox.wait()).signal == signal.SIGKILL
    assert all_gone(pidfds, timeout_s=5)
    await sandbox.output.read()
    await sandboxes.zygote.died()
    assert not sandboxes.zygote.running
    with pytest.raises(ZygoteDiedError):
        await sandboxes.fork("pass")
    await sandboxes.zygote.start()
    assert (await sandboxes.run("print('again')"))[0] == "again\n"


async def test_a_zygote_that_dies_under_a_fork_is_said(sandboxes: Sandboxes) -> None:
    # Stopped, it takes the order and never answers.
    os.kill(sandboxes.zygote.pid, signal.SIGSTOP)
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
    assert all_gone(pidfds, timeout_s=5)
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


async def test_many_sandboxes_at_once_leave_no_mount_no_group_no_descriptor(
    sandboxes: Sandboxes, cgroups: CgroupTree
) -> None:
    await sandboxes.run("pass")  # From here on some groups are kept ready.
    before = left_over(cgroups)
    results = await asyncio.gather(*(sandboxes.run(f"print({number})") for number in range(12)))
    assert [output for output, _end in results] == [f"{number}\n" for number in range(12)]
    await asyncio.sleep(0)  # The last pipe is closed one turn after its end was read.
    assert left_over(cgroups) == before


def left_over(cgroups: CgroupTree) -> tuple[str, int, int]:
    """What a sandbox could leave behind: this process's mounts, its descriptors, and control groups."""
    descriptors = list(Path("/proc/self/fd").iterdir())
    groups = [path for folder in cgroups.folders for path in folder.glob("*/")]
    assert all(not (path / "cgroup.procs").read_text() for path in groups)
    return Path("/proc/self/mountinfo").read_text(), len(descriptors), len(groups)


def test_a_zygote_that_was_never_started_can_be_stopped(sandbox_config: SandboxConfig, cgroups: CgroupTree) -> None:
    asyncio.run(Zygote(config=sandbox_config, cgroups=cgroups).stop())
