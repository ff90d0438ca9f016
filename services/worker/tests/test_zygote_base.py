"""Zygotes of one worker share what they have imported, and none takes another with it but their base."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from qonduit_worker.sandbox import CgroupTree, SandboxConfig, Zygote, ZygoteStartError
from qonduit_worker.sandbox.testing import LIMITS, Sandboxes, all_gone, handles
from qonduit_worker.settings import WorkerSettings
from qonduit_worker.zygotes import Forked, ZygotePool

_MARK = "import import_marker; print(import_marker.MARK)"


@pytest.fixture
async def pool(sandbox_config: SandboxConfig, cgroups: CgroupTree) -> AsyncIterator[ZygotePool]:
    zygotes = ZygotePool(sandbox_config, cgroups, preload=("import_marker",), warm=False)
    await zygotes.start()
    await zygotes.ready(2)
    yield zygotes
    await zygotes.stop()
    await asyncio.sleep(0)  # Transports tell their protocols one turn later.


class Programs:
    """Runs lines in the sandboxes of a pool."""

    def __init__(self, pool: ZygotePool, folder: Path) -> None:
        self._pool = pool
        self._boxes = Sandboxes(Zygote(config=SandboxConfig(folder / "state", "C"), cgroups=CgroupTree(folder)), folder)

    async def fork(self, code: str, threads: int) -> Forked:
        spec = self._boxes.spec(code, limits=replace(LIMITS, mem_bytes=2**30))
        return await self._pool.fork(spec, threads=threads, kind="driver")

    async def run(self, code: str, threads: int) -> str:
        forked = await self.fork(code, threads)
        output = (await forked.sandboxed.output.read()).decode()
        assert (await forked.sandboxed.wait()).exit_code == 0, output
        return output


@pytest.fixture
def programs(pool: ZygotePool, worker_folder: Path) -> Programs:
    return Programs(pool, worker_folder)


async def test_both_kinds_come_from_one_import(programs: Programs) -> None:
    assert await programs.run(_MARK, 1) == await programs.run(_MARK, 2)


@pytest.mark.parametrize(("killed", "spared"), [(1, 2), (2, 1)])
async def test_either_kind_dies_alone_and_is_forked_again_from_the_same_import(
    killed: int, spared: int, programs: Programs
) -> None:
    mark = await programs.run(_MARK, spared)
    lives = await programs.fork("import time; print('up', flush=True); time.sleep(600)", spared)
    await lives.sandboxed.output.readline()
    dies = await programs.fork("import time; print('up', flush=True); time.sleep(600)", killed)
    await dies.sandboxed.output.readline()

    os.kill(dies.nest.zygote.pid, signal.SIGKILL)
    await dies.sandboxed.wait()
    assert await dies.orphaned()
    assert await programs.run(_MARK, killed) == mark
    assert lives.nest.deaths == 0
    lives.sandboxed.kill()
    await lives.sandboxed.wait()
    assert not await lives.orphaned(), "it outlived the other kind, and ended because it was told to"


async def test_when_the_base_dies_both_end_and_start_anew(pool: ZygotePool, programs: Programs) -> None:
    mark = await programs.run(_MARK, 1)
    running = [await programs.fork("import time; print('up', flush=True); time.sleep(600)", kind) for kind in (1, 2)]
    for forked in running:
        await forked.sandboxed.output.readline()
    pidfds = handles([pid for forked in running for pid in (forked.nest.zygote.pid, *forked.sandboxed.processes())])
    os.kill(pool.base_pid, signal.SIGKILL)
    for forked in running:
        await forked.sandboxed.wait()
        assert await forked.orphaned()
    assert all_gone(pidfds, timeout_s=60)
    again = {await programs.run(_MARK, kind) for kind in (1, 2)}
    assert len(again) == 1
    assert again != {mark}


async def test_a_base_that_cannot_start_is_why_a_zygote_does_not(
    sandbox_config: SandboxConfig, cgroups: CgroupTree
) -> None:
    base = Zygote(config=sandbox_config, cgroups=cgroups, preload=["no_such_module"])
    zygote = Zygote(config=sandbox_config, cgroups=cgroups, base=base)
    with pytest.raises(ZygoteStartError, match="no_such_module"):
        await zygote.start()
    await zygote.stop()
    await base.stop()


async def test_a_warm_up_that_starts_a_thread_is_refused_and_its_base_lives_on(
    sandbox_config: SandboxConfig, cgroups: CgroupTree
) -> None:
    base = Zygote(config=sandbox_config, cgroups=cgroups)
    threaded = Zygote(config=sandbox_config, cgroups=cgroups, warm="sandbox_program:start_thread", base=base)
    with pytest.raises(ZygoteStartError, match="2 threads"):
        await threaded.start()
    other = Zygote(config=sandbox_config, cgroups=cgroups, base=base)
    await other.start()
    assert base.running
    for zygote in (threaded, other, base):
        await zygote.stop()


async def test_a_forked_zygote_tells_what_its_base_imported_and_what_it_imported_itself(
    sandbox_config: SandboxConfig, cgroups: CgroupTree
) -> None:
    base = Zygote(config=sandbox_config, cgroups=cgroups, preload=["msgpack"])
    plain = Zygote(config=sandbox_config, cgroups=cgroups, base=base)
    warm = Zygote(config=sandbox_config, cgroups=cgroups, warm="sandbox_program:import_more", base=base)
    for zygote in (plain, warm):
        await zygote.start()
    assert "msgpack" in base.imported
    assert plain.imported == base.imported
    assert warm.imported == base.imported | {"import_marker", "sandbox_program"}
    for zygote in (plain, warm, base):
        await zygote.stop()


_TRANSPILE = """
import json
from qiskit import QuantumCircuit, generate_preset_pass_manager
from qiskit_ibm_runtime.fake_provider import FakeTorino
circuit = QuantumCircuit(6)
circuit.h(0)
circuit.cx(0, range(1, 6))
print(json.dumps([
    generate_preset_pass_manager(level, backend=FakeTorino(), seed_transpiler=7).run(circuit).num_qubits
    for level in (1, 3)
]))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_children_of_both_kinds_transpile_with_as_many_threads_as_they_are_for(
    sandbox_config: SandboxConfig, cgroups: CgroupTree, worker_folder: Path
) -> None:
    preload = WorkerSettings.model_fields["preload"].default
    pool = ZygotePool(sandbox_config, cgroups, preload=preload, warm=True)
    await pool.start()
    boxes = Programs(pool, worker_folder)
    async with asyncio.timeout(500):
        for threads in (1, 2, 1):
            lines = f"import os; os.environ['RAYON_NUM_THREADS'] = '{threads}'\n{_TRANSPILE}"
            assert json.loads(await boxes.run(lines, threads)) == [133, 133]
    await pool.stop()
