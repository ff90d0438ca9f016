"""What a zygote does once, so that no program has to: build a target and transpile for it, on one thread."""

from __future__ import annotations


def warm_up() -> None:
    """Transpile one circuit for a device of the size that most programs ask for."""
    from qiskit import QuantumCircuit, generate_preset_pass_manager  # noqa: PLC0415 - In the zygote alone.
    from qiskit_ibm_runtime.fake_provider import FakeTorino  # noqa: PLC0415

    circuit = QuantumCircuit(3)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.rzz(0.5, 1, 2)
    circuit.measure_all()
    generate_preset_pass_manager(optimization_level=1, backend=FakeTorino()).run(circuit)
