"""A table of a device's noise, loaded: the same model as the one that Aer makes, to the last bit, or an error."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from noisy_corners import corner, told_to_aer
from qiskit import QuantumCircuit
from qiskit.circuit.library import HGate
from qiskit_aer import AerSimulator
from qiskit_aer.noise import QuantumError
from qonduit_qpu_broker.simulator.noise_table import BadTableError, NoiseTable, TableWriter, UntabledError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit_qpu_broker.simulator.device import DeviceModel

    Arrays = dict[str, Any]

DEVICES = ["ibm_torino", "ibm_fez", "ibm_brisbane", "ibmq_manila"]
QUBITS = 5


@pytest.fixture(scope="module")
def table() -> bytes:
    return corner("ibm_fez", QUBITS).noise_table()


def _loaded(device: str, table: bytes) -> DeviceModel:
    model = corner(device, QUBITS)
    model.take_noise(NoiseTable(table))
    return model


@pytest.mark.parametrize("device", [DEVICES[0], *(pytest.param(one, marks=pytest.mark.slow) for one in DEVICES[1:])])
def test_a_loaded_model_is_the_one_that_aer_makes(device: str) -> None:
    built = corner(device, QUBITS)
    loaded = _loaded(device, built.noise_table())
    for active in [tuple(range(QUBITS)), (0, 1), (1, 2, 4), (3,), ()]:
        assert told_to_aer(loaded.noise_for(active)) == told_to_aer(built.noise_for(active)), active
    assert loaded.noise_for((0, 1)) == built.noise_for((0, 1)), "Aer itself says so, too"


def test_a_loaded_model_gives_the_same_counts_also_after_a_delay(table: bytes) -> None:
    circuit = QuantumCircuit(QUBITS)
    for qubit in range(QUBITS - 1):
        circuit.sx(qubit)
        circuit.cz(qubit, qubit + 1)
    circuit.delay(40_000, 0, unit="ns")
    circuit.measure_all()
    counts = [
        AerSimulator(noise_model=model.noise_for(tuple(range(QUBITS))), seed_simulator=7)
        .run(circuit, shots=2000)
        .result()
        .get_counts()
        for model in (corner("ibm_fez", QUBITS), _loaded("ibm_fez", table))
    ]
    assert counts[0] == counts[1]
    assert len(counts[0]) > 2, "there is noise to compare"


def test_what_is_the_same_is_there_once(table: bytes) -> None:
    errors = [error for _, _, error in NoiseTable(table).errors(frozenset(range(QUBITS)))]
    circuits = [circuit for error in errors for circuit in error.circuits]
    assert len({id(circuit) for circuit in circuits}) * 3 < len(circuits)
    assert len(table) < 10 * len(circuits)


def test_the_same_device_makes_the_same_table(table: bytes) -> None:
    assert corner("ibm_fez", QUBITS).noise_table() == table


def test_a_device_without_properties_has_an_empty_table() -> None:
    empty = TableWriter().packed()
    assert list(NoiseTable(empty).errors(frozenset(range(9)))) == []


def test_what_this_form_can_not_hold_is_refused_when_it_is_written() -> None:
    with pytest.raises(UntabledError, match="h on 1 qubits"):
        TableWriter().add([("x", (0,), QuantumError([(HGate(), 1.0)]))])


@pytest.mark.parametrize("damage", [lambda t: t[:0], lambda t: t[: len(t) // 2], lambda t: t[:-1], lambda t: b"no" + t])
def test_a_damaged_table_is_refused(table: bytes, damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(BadTableError):
        NoiseTable(damage(table))


@pytest.mark.slow
def test_no_flipped_bit_gets_by_unseen_or_breaks_more_than_the_table(table: bytes) -> None:
    built = told_to_aer(corner("ibm_fez", QUBITS).noise_for((0, 1, 2)))
    for place in range(0, len(table), 97):
        flipped = table[:place] + bytes([table[place] ^ 0x10]) + table[place + 1 :]
        try:
            loaded = _loaded("ibm_fez", flipped)
        except BadTableError:
            continue
        assert told_to_aer(loaded.noise_for((0, 1, 2))) == built, "a bit that means nothing, like a date"


def _damaged(table: bytes, change: Callable[[Arrays], Any]) -> bytes:
    arrays = dict(np.load(io.BytesIO(table)))
    change(arrays)
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


def _set(name: str, place: Any, number: float) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name][place] = number

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("terms", 3, 10**6),
        _set("terms", 3, -1),
        _set("widths", 0, 9),
        _set("steps", (0, 0), 10**6),
        _set("steps", (0, 1), 2),
        _set("steps", (0, 2), -2),
        _set("step_ends", 0, 10**6),
        _set("errors", (0, 0), 99),
        _set("errors", (0, 3), 10**6),
        _set("errors", (-1, 3), 1),
        _set("probabilities", 0, 0.0),
        _set("probabilities", 0, -0.5),
        _set("probabilities", 0, 0.5),
        _set("probabilities", 0, float("nan")),
        lambda arrays: arrays.pop("steps"),
        lambda arrays: arrays.update(names=np.frombuffer(b'{"gates": []}', np.uint8)),
        lambda arrays: arrays.update(names=np.frombuffer(b"[]", np.uint8)),
        lambda arrays: arrays.update(terms=arrays["terms"].astype(float)),
        lambda arrays: arrays.update(terms=arrays["terms"].astype(object)),
    ],
)
def test_numbers_that_lead_nowhere_are_found_before_a_job_meets_them(
    table: bytes, change: Callable[[Arrays], Any]
) -> None:
    assert NoiseTable(_damaged(table, lambda _: None)), "only the change is what is wrong"
    with pytest.raises(BadTableError):
        NoiseTable(_damaged(table, change))


def test_to_read_one_runs_nothing(table: bytes, tmp_path: Any) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(tmp_path / "sprung"), "w"))

    def trap(arrays: Arrays) -> None:
        arrays["terms"] = np.array([Trap()], dtype=object)

    with pytest.raises(BadTableError):
        NoiseTable(_damaged(table, trap))
    assert not (tmp_path / "sprung").exists()
