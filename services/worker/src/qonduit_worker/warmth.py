"""What an interpreter does once before programs are forked from it."""

from __future__ import annotations


def warm_up() -> None:
    """Transpile one circuit for a device of the size that most programs ask for, without Qiskit's thread pool.

    The first transpile of a process costs a second: a target, the equivalence library, plugins found by their entry
    points. What is forked from here has all that and pays a sixth. The passes of the optimization stage, of routing and
    of levels 2 and 3 use Qiskit's Rust thread pool even with one thread, and a child of a process that ever used the
    pool hangs on its own first use of it: so this runs a circuit that needs no routing, at level 1, and leaves
    that stage out. The circuits are then encoded and decoded as a task's are. The zygote refuses to start when a
    thread was begun all the same.
    """
    from qiskit import QuantumCircuit, generate_preset_pass_manager  # noqa: PLC0415 - In the zygote alone.
    from qiskit_ibm_runtime.fake_provider import FakeTorino  # noqa: PLC0415
    from qonduit.program import pickling  # noqa: PLC0415

    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    passes = generate_preset_pass_manager(optimization_level=1, backend=FakeTorino())
    passes.optimization = None
    pickling.loads(pickling.dumps([circuit, passes.run(circuit)]))
