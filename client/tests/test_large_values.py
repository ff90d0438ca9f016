"""Large arrays and circuits travel behind the JSON, whole and unchanged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.quantum_info import SparsePauliOp
from qonduit import QiskitFunction
from qonduit.encoding import decode, encode
from qonduit.large_values import LEAST_BYTES, MAGIC, SegmentError

if TYPE_CHECKING:
    from pathlib import Path

    from fake_gateway import FakeGateway
    from qonduit import ServerlessClient


def large(dtype: str = "float64", count: int = 150_000) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 100, count).astype(dtype)


def large_circuit() -> QuantumCircuit:
    theta = Parameter("theta")
    circuit = QuantumCircuit(4, 4, metadata={"shots": np.int64(3), "when": 1j})
    for number in range(20_000):
        circuit.rx(theta * number if number < 3 else 0.1 * number, number % 4)
        circuit.cx(number % 4, (number + 1) % 4)
    circuit.measure(range(4), range(4))
    return circuit


def test_large_arrays_are_not_in_the_json() -> None:
    array = large()
    data = encode({"array": array, "again": [array], "small": np.arange(3), "name": "x"})
    assert data.startswith(MAGIC)
    assert len(data) < 2 * array.nbytes + 2000
    back = decode(data)
    assert np.array_equal(back["array"], array)
    assert np.array_equal(back["again"][0], array)
    assert back["small"].tolist() == [0, 1, 2]
    assert back["name"] == "x"
    back["array"][0] = 5  # The caller's own.
    assert back["again"][0][0] == array[0]


@pytest.mark.parametrize(
    "array",
    [
        large("complex128"),
        large("int8", 2_000_000),
        large("float64").reshape(300, 500).T,
        np.asfortranarray(large("float32", 400_000).reshape(2, 200_000)),
        np.zeros(200_000, dtype=[("a", "i4"), ("b", "f8")]),
        large(">i8"),
        np.ones((1200, 1000), dtype=bool),
    ],
    ids=["complex", "bytes", "transposed", "columns first", "records", "big-endian", "bool"],
)
def test_arrays_of_any_kind_come_back(array: np.ndarray) -> None:
    back = decode(encode([array]))[0]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert np.array_equal(back, array)


def test_a_large_circuit_comes_back_with_its_parameters_and_metadata() -> None:
    circuit = large_circuit()
    data = encode({"circuit": circuit})
    assert data.startswith(MAGIC)
    back = decode(data)["circuit"]
    assert back == circuit
    assert back.metadata == circuit.metadata
    assert [parameter.name for parameter in back.parameters] == ["theta"]


@pytest.mark.slow
def test_large_arrays_in_other_values_come_back() -> None:
    operator = SparsePauliOp(["ZZ", "XX"] * 40_000, large("complex128", 80_000))
    back = decode(encode({"operator": operator, "nested": {"deep": [large()]}}))
    assert back["operator"] == operator
    assert np.array_equal(back["nested"]["deep"][0], large())


def test_what_is_small_stays_plain_json() -> None:
    data = encode({"array": np.arange(100), "text": "x" * LEAST_BYTES})
    assert json.loads(data)["array"]["__type__"] == "ndarray"


def test_arrays_of_objects_are_never_pickled() -> None:
    with pytest.raises(Exception, match=r"result\['array'\]|object"):
        encode({"array": np.array([object()] * 200_000, dtype=object)})


def test_bytes_that_are_cut_off_are_told() -> None:
    data = encode([large()])
    for length in (len(MAGIC), len(MAGIC) + 10, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match=r"cut off|Expecting|delimiter|[Uu]nterminated"):
            decode(data[:length])


def test_a_kind_of_a_newer_version_is_told() -> None:
    data = encode([large()]).replace(b'"npy"', b'"npz"')
    with pytest.raises(SegmentError, match="newer Qonduit"):
        decode(data)


def test_a_circuit_that_packs_small_is_still_uploaded_beside_the_request(
    client: ServerlessClient, gateway: FakeGateway, tmp_path: Path
) -> None:
    """The request itself carries JSON alone."""
    (tmp_path / "program.py").write_text("")
    function = client.upload(QiskitFunction("demo", entrypoint="program.py", working_dir=str(tmp_path)))
    circuit = QuantumCircuit(1)
    for _ in range(40_000):
        circuit.x(0)
    function.run(circuit=circuit)
    (request,) = gateway.state.runs
    assert not request.arguments_json
    stored = gateway.state.arguments[request.arguments_digest]
    assert len(stored) < LEAST_BYTES
    assert decode(stored)["circuit"] == circuit
