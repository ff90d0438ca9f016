"""A zygote loads once what programs need, and forks only when that is safe."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from qonduit_service_kit.messages import LeaseKind, Shape
from qonduit_worker.environment import Occupant, program_environment, threads_of
from qonduit_worker.sandbox import CgroupTree, Limits, SandboxConfig, SandboxSpec, Zygote, ZygoteStartError
from qonduit_worker.sandbox.testing import LIMITS, Sandboxes
from qonduit_worker.settings import WorkerSettings
from qonduit_worker.zygotes import WARM

ROOMY = replace(LIMITS, mem_bytes=2**30)

TRANSPILE = """
import json, os, time
started = time.monotonic()
from qiskit import QuantumCircuit, transpile
from qiskit.transpiler import CouplingMap
circuit = QuantumCircuit(8)
for qubit in range(7):
    circuit.h(qubit)
    circuit.cx(qubit, 7 - qubit if qubit != 7 - qubit else 0)
done = transpile(
    [circuit] * 4, basis_gates=["rz", "sx", "cz"], coupling_map=CouplingMap.from_line(8), optimization_level=3
)
print(json.dumps([len(done), done[0].num_qubits, time.monotonic() - started]))
"""


@pytest.mark.slow
async def test_programs_transpile_in_a_fork(
    sandbox_config: SandboxConfig, cgroups: CgroupTree, make_sandboxes: Callable[[Zygote], Sandboxes]
) -> None:
    pytest.importorskip("qiskit")
    zygote = Zygote(config=sandbox_config, cgroups=cgroups, preload=["qiskit", "qiskit_ibm_runtime"])
    await zygote.start()
    sandboxes = make_sandboxes(zygote)
    for environment in ({}, {"RAYON_NUM_THREADS": "2"}):
        output, end = await sandboxes.run(TRANSPILE, environment=environment)
        assert end.exit_code == 0, output
        assert json.loads(output)[:2] == [4, 8]
    await zygote.stop()


WARM_TRANSPILE = """
import json, os
from qiskit import QuantumCircuit, generate_preset_pass_manager
from qiskit_ibm_runtime.fake_provider import FakeTorino
from qonduit.program import pickling
circuit = QuantumCircuit(12)
for qubit in range(12):
    circuit.h(qubit)
    circuit.cx(qubit, (5 * qubit + 1) % 12 if qubit != (5 * qubit + 1) % 12 else 0 if qubit else 1)
circuit.measure_all()
done = {}
for level in LEVELS:
    isa = generate_preset_pass_manager(level, backend=FakeTorino(), seed_transpiler=7).run([circuit, circuit])
    done[level] = pickling.loads(pickling.dumps(isa)) == isa
print(json.dumps(done))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_children_of_the_warm_zygote_transpile_at_every_level(
    sandbox_config: SandboxConfig, cgroups: CgroupTree, make_sandboxes: Callable[[Zygote], Sandboxes]
) -> None:
    """Each level is the first that a child runs: one that would hang on the thread pool hangs there."""
    preload = WorkerSettings.model_fields["preload"].default
    zygote = Zygote(config=sandbox_config, cgroups=cgroups, preload=preload, warm=WARM)
    await zygote.start()
    sandboxes = make_sandboxes(zygote)
    for levels in ([1], [2], [3], [0, 1, 2, 3]):
        for threads in (1, 2):  # A program may raise the number by itself: the pool is made with what it asks for.
            code = WARM_TRANSPILE.replace("LEVELS", str(levels))
            environment = {"RAYON_NUM_THREADS": str(threads), "QISKIT_PARALLEL": "FALSE"}
            async with asyncio.timeout(300):
                output, end = await sandboxes.run(code, limits=ROOMY, environment=environment)
            assert end.exit_code == 0, output
            assert json.loads(output) == {str(level): True for level in levels}
    await zygote.stop()


THREADS = """
import json, os
from qiskit import QuantumCircuit, generate_preset_pass_manager
from qiskit.utils.parallel import default_num_processes
from qiskit_ibm_runtime.fake_provider import FakeTorino
circuit = QuantumCircuit(12)
circuit.h(0)
circuit.cx(0, range(1, 12))
generate_preset_pass_manager(3, backend=FakeTorino(), seed_transpiler=7).run([circuit, circuit])
print(json.dumps({
    "settings": sorted({os.environ[name] for name in os.environ if name.endswith("NUM_THREADS")}),
    "processes": default_num_processes(),
    "pool": len(os.listdir("/proc/self/task")) - 1,
}))
"""


@pytest.mark.parametrize(("cpu_millis", "threads"), [(500, 1), (1000, 1), (1001, 2), (4000, 4)])
def test_a_program_may_have_a_thread_for_each_cpu_that_was_begun(cpu_millis: int, threads: int) -> None:
    assert threads_of(Shape(cpu_millis, 2**30)) == threads


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("cpu_millis", "threads"), [(500, 1), pytest.param(4000, 4, marks=pytest.mark.slow)])
async def test_libraries_start_as_many_threads_as_the_target_has_cpus(
    cpu_millis: int,
    threads: int,
    sandbox_config: SandboxConfig,
    cgroups: CgroupTree,
    make_sandboxes: Callable[[Zygote], Sandboxes],
) -> None:
    shape = Shape(cpu_millis, 2**30)
    assert threads_of(shape) == threads
    preload = WorkerSettings.model_fields["preload"].default
    warm = WARM if threads == 1 else None
    zygote = Zygote(config=sandbox_config, cgroups=cgroups, preload=preload, warm=warm)
    await zygote.start()
    occupant = Occupant(LeaseKind.EXECUTOR, "job", 1, shape)
    environment = program_environment(occupant, zygote.inside(sandbox_config.state_dir), qpu={}, own={})
    sandboxes = make_sandboxes(zygote)
    async with asyncio.timeout(300):
        output, end = await sandboxes.run(THREADS, limits=ROOMY, environment=environment)
    assert end.exit_code == 0, output
    told = json.loads(output)
    assert told["settings"] == [str(threads)]
    assert told["processes"] == threads
    assert told["pool"] <= threads, "more threads were started than the target has cpus"
    await zygote.stop()


async def test_a_zygote_with_threads_is_refused(sandbox_config: SandboxConfig, cgroups: CgroupTree) -> None:
    zygote = Zygote(config=sandbox_config, cgroups=cgroups, warm="sandbox_program:start_thread")
    with pytest.raises(ZygoteStartError, match="2 threads"):
        await zygote.start()
    assert not zygote.running
    await zygote.stop()


async def test_a_module_that_is_missing_is_named(sandbox_config: SandboxConfig, cgroups: CgroupTree) -> None:
    zygote = Zygote(config=sandbox_config, cgroups=cgroups, preload=["no_such_module"])
    with pytest.raises(ZygoteStartError, match="no_such_module"):
        await zygote.start()
    await zygote.stop()


async def test_a_program_sees_what_was_preloaded_and_no_secret_of_the_worker(
    sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QONDUIT_SECRET", "canary-4711")
    await sandboxes.zygote.stop()
    await sandboxes.zygote.start()
    code = "import os; print('canary' in open('/proc/self/environ').read() + str({**os.environ, 'CODE': ''}))"
    output, _end = await sandboxes.run(code)
    assert output == "False\n"


async def test_an_entry_that_does_not_exist_is_a_traceback(sandboxes: Sandboxes) -> None:
    spec = sandboxes.spec("pass")
    spec = type(spec)(spec.sandbox_id, spec.directory, spec.limits, spec.environment, "sandbox_program:nothing")
    sandbox = await sandboxes.zygote.fork(spec)
    assert b"has no attribute 'nothing'" in await sandbox.output.read()
    assert (await sandbox.wait()).exit_code == 1


@pytest.mark.parametrize("bad", ["", "A", "../x", "a/b", "a" * 64, "a b"])
def test_ids_are_file_names(bad: str, sandbox_config: SandboxConfig, limits: Limits) -> None:
    with pytest.raises(ValueError, match="sandbox id"):
        SandboxSpec(bad, sandbox_config.state_dir, limits, {}, "a:b")
