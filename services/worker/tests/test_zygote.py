"""A zygote loads once what programs need, and forks only when that is safe."""

import json
from collections.abc import Callable

import pytest
from qonduit_worker.sandbox import CgroupTree, Limits, SandboxConfig, SandboxSpec, Zygote, ZygoteStartError
from qonduit_worker.sandbox.testing import Sandboxes

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
