"""What a program may use is bounded, and going over it hurts that program alone."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from qonduit_worker.sandbox import CgroupTree, Limits, SandboxConfig, Zygote
from qonduit_worker.sandbox.hierarchies import Hierarchies
from qonduit_worker.sandbox.testing import Sandboxes

MIB = 1024 * 1024
HOG = """
    print("begin", flush=True)
    held = []
    while True:
        held.append(bytearray(4 * 1024 * 1024))
"""


async def test_a_memory_hog_dies_of_it_and_its_neighbour_lives(sandboxes: Sandboxes, limits: Limits) -> None:
    neighbour = await sandboxes.fork("print('here', flush=True); import time; time.sleep(600)", limits=limits)
    await neighbour.output.readline()
    output, end = await sandboxes.run(HOG, limits=replace(limits, mem_bytes=64 * MIB))
    assert output == "begin\n"
    assert (end.signal, end.oom_killed) == (signal.SIGKILL, True)
    assert 56 * MIB < end.peak_mem_bytes <= 64 * MIB
    assert neighbour.usage().mem_bytes > 0
    neighbour.kill()
    end = await neighbour.wait()
    assert (end.signal, end.oom_killed) == (signal.SIGKILL, False)
    await neighbour.output.read()


async def test_a_hog_among_the_children_is_told(sandboxes: Sandboxes, limits: Limits) -> None:
    code = f"""
        import subprocess, sys, textwrap
        done = subprocess.run([sys.executable, "-c", textwrap.dedent({HOG!r})])
        print(done.returncode)
    """
    output, end = await sandboxes.run(code, limits=replace(limits, mem_bytes=64 * MIB))
    assert output == "begin\n-9\n"
    assert (end.exit_code, end.oom_killed) == (0, True)


async def test_files_in_tmp_count_as_memory(sandboxes: Sandboxes, limits: Limits) -> None:
    code = """
        with open("/tmp/big", "wb") as file:
            while True:
                file.write(bytes(1024 * 1024))
    """
    limits = replace(limits, mem_bytes=48 * MIB, tmp_bytes=512 * MIB, file_bytes=None)
    _output, end = await sandboxes.run(code, limits=limits)
    assert (end.signal, end.oom_killed) == (signal.SIGKILL, True)


@pytest.mark.parametrize(("path", "reason"), [("/tmp/big", "No space left"), ("/job/big", "File too large")])  # noqa: S108
async def test_files_are_bounded(sandboxes: Sandboxes, limits: Limits, path: str, reason: str) -> None:
    code = f"""
        with open("{path}", "wb") as file:
            for _ in range(100):
                file.write(bytes(1024 * 1024))
    """
    output, end = await sandboxes.run(code, limits=limits)
    assert end.exit_code == 1
    assert reason in output


async def test_a_fork_bomb_is_bounded_and_ends_with_its_program(sandboxes: Sandboxes, limits: Limits) -> None:
    code = """
        import os, time
        made = 0
        try:
            while True:
                if os.fork() == 0:
                    time.sleep(600)
                made += 1
        except BlockingIOError:
            print(made, flush=True)
            time.sleep(600)
    """
    sandbox = await sandboxes.fork(code, limits=replace(limits, pids=32))
    assert 20 <= int(await sandbox.output.readline()) <= 32
    sandbox.kill()
    assert (await sandbox.wait()).signal == signal.SIGKILL
    assert await sandbox.output.read() == b""


async def test_cpu_time_counts_the_whole_tree(sandboxes: Sandboxes, limits: Limits) -> None:
    code = """
        import os, subprocess, sys, time
        burn = "import time\\nwhile time.process_time() < 0.3: pass"
        exec(burn)
        subprocess.run([sys.executable, "-c", burn])
        print(sum(os.times()[:4]), flush=True)
        time.sleep(600)
    """
    sandbox = await sandboxes.fork(code, limits=limits)
    burned_s = float(await sandbox.output.readline())
    live = sandbox.usage()
    sandbox.kill()
    end = await sandbox.wait()
    assert 0.55 < live.cpu_seconds <= end.cpu_seconds < 1.7 * burned_s, "each process once, and who set them up"
    assert end.wall_seconds >= end.cpu_seconds / 2
    await sandbox.output.read()


PRIORITY = "import os; print(os.getpriority(os.PRIO_PROCESS, 0))"


async def test_a_program_whose_cpu_a_group_weighs_is_as_urgent_as_any(sandboxes: Sandboxes) -> None:
    assert (await sandboxes.run(PRIORITY))[0] == f"{os.getpriority(os.PRIO_PROCESS, 0)}\n"


async def test_without_a_cpu_group_programs_give_way_to_the_agent(
    worker_folder: Path, sandbox_config: SandboxConfig, make_sandboxes: Callable[[Zygote], Sandboxes]
) -> None:
    zygote = Zygote(config=sandbox_config, cgroups=CgroupTree(worker_folder, Hierarchies()))
    await zygote.start()
    assert (await make_sandboxes(zygote).run(PRIORITY))[0] == f"{os.getpriority(os.PRIO_PROCESS, 0) + 5}\n"
    await zygote.stop()


async def test_without_a_memory_group_a_watchdog_ends_the_hog(
    worker_folder: Path, sandbox_config: SandboxConfig, limits: Limits, make_sandboxes: Callable[[Zygote], Sandboxes]
) -> None:
    zygote = Zygote(config=sandbox_config, cgroups=CgroupTree(worker_folder, Hierarchies()))
    await zygote.start()
    sandboxes = make_sandboxes(zygote)
    output, end = await sandboxes.run(
        "kept = bytearray(30_000_000)\nprint('fine')", limits=replace(limits, mem_bytes=64 * MIB)
    )
    assert (output, end.exit_code, end.oom_killed) == ("fine\n", 0, False)
    # It stops before it is in the way of others, however late the watchdog comes.
    slow_hog = HOG.replace(
        "while True:", "import time\n    while True:\n        time.sleep(0.01 if len(held) < 100 else 600)"
    )
    output, end = await sandboxes.run(slow_hog, limits=replace(limits, mem_bytes=64 * MIB))
    assert (output, end.signal, end.oom_killed) == ("begin\n", signal.SIGKILL, True)
    assert end.peak_mem_bytes > 64 * MIB
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(time.process_time())"
    output, end = await sandboxes.run(code, limits=limits)
    assert 0.25 < end.cpu_seconds < 2 * float(output)
    await zygote.stop()
