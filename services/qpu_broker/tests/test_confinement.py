from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest
from qiskit import QuantumCircuit
from qiskit_ibm_runtime import RuntimeEncoder
from qonduit_qpu_broker.local.launching import Limits
from qonduit_qpu_broker.local.process import SimulatorDiedError, SimulatorProcess
from qonduit_qpu_broker.simulator import engine as engines
from qonduit_qpu_broker.simulator.frames import SimulationRequest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

ATTEMPTS = """
import json, os, socket, sys
from qonduit_qpu_broker.simulator.confinement import confine
secret, outside, port, parent = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
confine(memory_bytes=2**30, hidden=[os.path.dirname(secret)])
tried = {
    "read": lambda: open(secret).read(),
    "read by cwd": lambda: open("../data/secret").read(),
    "write": lambda: open(outside + "/new", "w"),
    "remove": lambda: os.unlink(outside + "/old"),
    "connect": lambda: socket.create_connection(("127.0.0.1", port), 2),
    "signal": lambda: os.kill(parent, 0),
    "look": lambda: open(f"/proc/{parent}/environ", "rb").read(),
}
done = []
for name, attempt in tried.items():
    try:
        attempt()
    except OSError:
        continue
    done.append(name)
print(json.dumps(done))
"""


def _unshares() -> bool:
    pid = os.fork()
    if pid == 0:
        import ctypes  # noqa: PLC0415 -- in the child alone.

        flags = 0x40020000 | (0x10000000 if os.geteuid() else 0)
        os._exit(0 if ctypes.CDLL(None).unshare(flags) == 0 else 1)
    return os.waitpid(pid, 0)[1] == 0


async def test_a_confined_process_reaches_nothing_of_the_broker(tmp_path: Path) -> None:
    if not _unshares():
        pytest.skip("this machine gives no namespaces")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "secret").write_text("key")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "old").touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", ATTEMPTS, str(tmp_path / "data" / "secret"), str(tmp_path / "outside")),
            *(str(server.getsockname()[1]), str(os.getpid())),
            stdout=asyncio.subprocess.PIPE,
            cwd="/",
        )
        out, _ = await process.communicate()
    # Signals and writes need Landlock, which is not on every kernel; the rest is namespaces alone.
    assert set(json.loads(out)) <= {"write", "remove", "signal"} if not _landlock() else json.loads(out) == []


def _landlock() -> bool:
    import ctypes  # noqa: PLC0415 -- for this question alone.

    return int(ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1)) >= 6


def _body(qubits: int) -> bytes:
    circuit = QuantumCircuit(133, qubits)
    circuit.h(range(qubits))
    circuit.t(range(qubits))
    circuit.measure(range(qubits), range(qubits))
    return json.dumps({"params": {"pubs": [(circuit, None, 10)]}}, cls=RuntimeEncoder).encode()


async def test_a_confined_simulator_simulates_and_the_next_job_runs_after_one_that_hangs(tmp_path: Path) -> None:
    data = tmp_path / "data"
    limits = Limits(max_qubits=24, memory_bytes=2 * 1024**3, time_limit_s=200, threads=1, hidden=(data,))
    process = SimulatorProcess(limits, data / "simulator")
    request = SimulationRequest("sampler", "ibm_torino", noisy=False)
    reply, result = await process.simulate(request, _body(2))
    assert reply.ok, reply.reason
    assert result
    await process.stop()
    hurried = SimulatorProcess(
        Limits(max_qubits=24, memory_bytes=2 * 1024**3, time_limit_s=0.0, threads=1), tmp_path / "s"
    )
    with pytest.raises(SimulatorDiedError, match="took longer"):
        await hurried.simulate(request, _body(20))
    await hurried.ensure()
    await hurried.stop()


def test_a_result_over_the_limit_fails_its_job_with_the_numbers(monkeypatch: Any) -> None:
    monkeypatch.setattr(engines, "MAX_RESULT_BYTES", 100)
    reply, _ = engines.Engine(max_qubits=4).run(SimulationRequest("sampler", "ibm_torino", noisy=False), _body(2))
    assert not reply.ok
    assert "100 are kept" in reply.reason
