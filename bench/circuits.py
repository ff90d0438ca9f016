"""What it costs to carry circuits between processes, against transpiling them, in one run.

    python bench/circuits.py --circuits 64 --level 1

The circuits have 20 to 50 qubits and are transpiled for a device of 133. For each way to carry them: CPU seconds to
encode and decode the inputs, and the same for the transpiled outputs, one message a circuit; bytes of the largest
message; and what is left of two processes' gain, (transpile / 2) / ((transpile + carry) / 2), when both cores share
that work. Last, two real processes that get circuits and send them back over pipes: the same in wall time.
"""

from __future__ import annotations

import os

os.environ |= {"RAYON_NUM_THREADS": "1", "QISKIT_PARALLEL": "FALSE", "QONDUIT_KIND": "executor"}  # Before any import.

import argparse
import io
import multiprocessing
import pickle
import random
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import qiskit
from qiskit import QuantumCircuit, generate_preset_pass_manager, qpy
from qiskit_ibm_runtime.fake_provider import FakeTorino
from qonduit.program import pickling
from qonduit.program.pass_managers import keep_pass_managers

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection


def make_circuit(number: int) -> QuantumCircuit:
    """Make a circuit of 20 to 50 qubits: layers of rotations, a line of entanglers, one far pair a layer."""
    choose = random.Random(number)  # noqa: S311 - The same circuits each time.
    qubits = 20 + number * 7 % 31
    circuit = QuantumCircuit(qubits)
    for layer in range(8):
        for qubit in range(qubits):
            circuit.ry(choose.random(), qubit)
            circuit.rz(choose.random(), qubit)
        for qubit in range(layer % 2, qubits - 1, 2):
            circuit.cx(qubit, qubit + 1)
        circuit.cx(*choose.sample(range(qubits), 2))
    circuit.measure_all()
    return circuit


def qpy_dumps(circuits: Any) -> bytes:
    """Return QPY as Qiskit writes it."""
    buffer = io.BytesIO()
    qpy.dump(circuits, buffer)
    return buffer.getvalue()


def qpy_loads(data: bytes) -> Any:
    """Return the list that QPY holds."""
    return qpy.load(io.BytesIO(data))


Way = tuple["Callable[[Any], bytes]", "Callable[[bytes], Any]"]
WAYS: dict[str, Way] = {
    "pickle": (lambda value: pickle.dumps(value, 5), pickle.loads),
    "QPY": (qpy_dumps, qpy_loads),
    "ours": (pickling.dumps, pickling.loads),
}


def cpu_seconds(action: Callable[[], Any]) -> tuple[float, Any]:
    """Return CPU seconds of an action, and what it returned."""
    begun = time.process_time()
    made = action()
    return time.process_time() - begun, made


def carry(values: list[Any], rounds: int = 7) -> dict[str, tuple[float, float, int]]:
    """Return CPU seconds to encode and to decode values one by one and the largest's bytes, of each way.

    The ways take turns, and each number is the least of its rounds.
    """
    least = dict.fromkeys(WAYS, (float("inf"), float("inf"), 0))
    for _ in range(rounds):
        for name, (encode, decode) in WAYS.items():
            encoding_s, data = cpu_seconds(partial(list, map(encode, values)))
            decoding_s, _ = cpu_seconds(partial(list, map(decode, data)))
            least[name] = (min(least[name][0], encoding_s), min(least[name][1], decoding_s), max(map(len, data)))
    return least


def work(pipe: Connection, level: int, way: Way, *, own_pass_manager: bool) -> None:
    """Transpile what comes until nothing more does."""
    backend = FakeTorino()
    shared = generate_preset_pass_manager(level, backend=backend, seed_transpiler=7)
    shared.run(make_circuit(0))
    pipe.send_bytes(b"ready")
    encode, decode = way
    while data := pipe.recv_bytes():
        circuit = decode(data)
        circuit = circuit[0] if isinstance(circuit, list) else circuit
        passes = qiskit.generate_preset_pass_manager(level, backend=backend, seed_transpiler=7)
        pipe.send_bytes(encode((passes if own_pass_manager else shared).run(circuit)))


def two_processes(circuits: list[QuantumCircuit], level: int, way: Way, *, own_pass_manager: bool = False) -> float:
    """Return wall seconds for two processes to transpile circuits, taken one at a time."""
    context = multiprocessing.get_context("fork")
    pipes, processes, own = [], [], {"own_pass_manager": own_pass_manager}
    for _ in range(2):
        mine, theirs = context.Pipe()
        processes.append(context.Process(target=work, args=(theirs, level, way), kwargs=own, daemon=True))
        processes[-1].start()
        mine.recv_bytes()
        pipes.append(mine)
    left, lock, done = list(circuits), threading.Lock(), []

    def feed(pipe: Connection) -> None:
        while True:
            with lock:
                circuit = left.pop() if left else None
            if circuit is None:
                return
            pipe.send_bytes(way[0](circuit))
            done.append(way[1](pipe.recv_bytes()))

    feeders = [threading.Thread(target=feed, args=(pipe,)) for pipe in pipes]
    begun = time.perf_counter()
    for feeder in feeders:
        feeder.start()
    for feeder in feeders:
        feeder.join()
    taken = time.perf_counter() - begun
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send_bytes(b"")
        process.join()
    assert len(done) == len(circuits)
    return taken


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--circuits", type=int, default=64)
    parser.add_argument("--level", type=int, default=1)
    options = parser.parse_args()
    keep_pass_managers()
    circuits = [make_circuit(number) for number in range(options.circuits)]
    # Two processes first: a child of one that has used Qiskit's thread pool would hang.
    walls = {name: two_processes(circuits, options.level, way) for name, way in WAYS.items()}
    own = two_processes(circuits, options.level, WAYS["ours"], own_pass_manager=True)
    passes = generate_preset_pass_manager(options.level, backend=FakeTorino(), seed_transpiler=7)
    passes.run(circuits[0])
    runs = [cpu_seconds(lambda: [passes.run(circuit) for circuit in circuits]) for _ in range(3)]
    serial_s, outputs = min(seconds for seconds, _ in runs), runs[0][1]
    print(f"{len(circuits)} circuits, level {options.level}: {serial_s:.2f} CPU seconds to transpile")
    print("way      | in: dump  load | out: dump  load | carry/transpile | most bytes | left | two processes (wall)")
    into, out = carry(circuits), carry(outputs)
    for name in WAYS:
        (a, b, _), (c, d, most) = into[name], out[name]
        total = a + b + c + d
        print(
            f"{name:8} |   {a:5.3f} {b:5.3f} |    {c:5.3f} {d:5.3f} | {total / serial_s:15.3f} | {most:10} "
            f"| {serial_s / (serial_s + total):4.0%} | {serial_s / 2 / walls[name]:4.0%}"
        )
    print(f"ours, each task builds its pass manager | two processes: {serial_s / 2 / own:4.0%}")


if __name__ == "__main__":
    main()
