"""Control groups of version 1 on the kernel itself, of version 2 in the words the kernel defines."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from qonduit_worker.sandbox import CgroupTree, Limits, sweep
from qonduit_worker.sandbox.cgroups import Cgroup
from qonduit_worker.sandbox.hierarchies import Hierarchies, find


@pytest.fixture
def group(cgroups: CgroupTree, limits: Limits) -> Iterator[Cgroup]:
    if not cgroups.folders:
        pytest.skip("this user may not make control groups")
    group = cgroups.take(limits)
    yield group
    group.remove()


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_in(group: Cgroup, code: str) -> int:
    descriptors = group.open_procs()
    joined = f"import os\nfor d in {descriptors}: os.write(d, b'0'); os.close(d)\n{code}"
    try:
        return subprocess.run([sys.executable, "-c", joined], check=False, pass_fds=descriptors).returncode
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def test_a_process_that_joins_is_counted(group: Cgroup) -> None:
    joined = "import time\njoined = time.process_time()\n"
    before = cpu_of_children()
    code = joined + "while time.process_time() < joined + 0.2: pass\nkept = bytearray(20_000_000)"
    assert run_in(group, code) == 0
    counted = group.readings()
    assert 0.19 < counted.cpu_seconds <= cpu_of_children() - before + 0.01
    assert counted.peak_mem_bytes > 20_000_000
    assert counted.oom_kills == 0


def test_over_the_memory_limit_is_told_apart(group: Cgroup, limits: Limits) -> None:
    assert run_in(group, f"kept = bytearray({limits.mem_bytes} + 1)") == -signal.SIGKILL
    assert group.readings().oom_kills == 1


def test_shares_and_process_counts_are_written(group: Cgroup, limits: Limits) -> None:
    shares = [folder / "cpu.shares" for folder in group.folders if (folder / "cpu.shares").exists()]
    assert [file.read_text() for file in shares] in ([], ["1024\n"])
    pids = [folder / "pids.max" for folder in group.folders if (folder / "pids.max").exists()]
    assert {file.read_text() for file in pids} == {f"{limits.pids}\n"}


def test_kill_and_remove_take_what_is_left(group: Cgroup) -> None:
    descriptors = group.open_procs()
    code = f"import os, time\nfor d in {descriptors}: os.write(d, b'0')\nprint(1, flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], pass_fds=descriptors, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert not group.try_remove()
        group.remove()
        assert process.wait() == -signal.SIGKILL
    for descriptor in descriptors:
        os.close(descriptor)
    assert not any(folder.exists() for folder in group.folders)


def test_two_workers_do_not_meet(tmp_path: Path) -> None:
    first, second = (CgroupTree(tmp_path / name) for name in ("one", "two"))
    assert not set(first.folders) & set(second.folders) or not first.folders


def test_a_sweep_of_a_folder_without_a_record_does_nothing(tmp_path: Path) -> None:
    assert sweep(tmp_path) == 0
    (tmp_path / "cgroups.json").write_text("broken")
    assert sweep(tmp_path) == 0


def test_this_machine_is_understood() -> None:
    found = find()
    assert all((folder / "cgroup.procs").exists() for folder in [*found.v1.values(), *([found.v2] if found.v2 else [])])
    assert found.mode in ("v1", "v2", "hybrid", "none")


# A folder with the files that a version 2 group has shows what is written there and how it is read. The kernel's
# part is in the tests above wherever they run on version 2.


@pytest.fixture
def unified(tmp_path: Path) -> Cgroup:
    group = Cgroup({}, tmp_path / "box")
    (tmp_path / "box").mkdir()
    for name in ("cpu.weight", "memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cgroup.kill"):
        (tmp_path / "box" / name).write_text("")
    for name, value in (
        ("cpu.stat", "usage_usec 1500000\nuser_usec 1000000\n"),
        ("memory.current", "1000\n"),
        ("memory.peak", "2000\n"),
        ("memory.events", "low 0\nhigh 0\nmax 4\noom 1\noom_kill 2\noom_group_kill 0\n"),
    ):
        (tmp_path / "box" / name).write_text(value)
    return group


def test_version_2_is_read(unified: Cgroup) -> None:
    counted = unified.readings()
    assert (counted.cpu_seconds, counted.mem_bytes, counted.peak_mem_bytes, counted.oom_kills) == (1.5, 1000, 2000, 2)


def test_version_2_without_controllers_counts_cpu_alone(tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text("usage_usec 7\n")
    counted = Cgroup({}, tmp_path).readings()
    assert (counted.cpu_seconds, counted.mem_bytes, counted.oom_kills) == (7e-6, None, None)


@pytest.mark.parametrize(("cpu", "weight"), [(0.001, "1"), (0.5, "50"), (1.0, "100"), (16.0, "1600"), (500.0, "10000")])
def test_version_2_limits(unified: Cgroup, tmp_path: Path, cpu: float, weight: str) -> None:
    unified.apply(Limits(cpu=cpu, mem_bytes=12345, tmp_bytes=1, pids=7))
    written = {name: (tmp_path / "box" / name).read_text() for name in ("cpu.weight", "memory.max", "pids.max")}
    assert written == {"cpu.weight": weight, "memory.max": "12345", "pids.max": "7"}
    assert (tmp_path / "box" / "memory.swap.max").read_text() == "0"
    assert (tmp_path / "box" / "memory.oom.group").read_text() == "1"


def test_modes() -> None:
    assert Hierarchies().mode == "none"
    assert not Hierarchies().has("memory")
