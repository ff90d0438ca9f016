from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qonduit.program import pickling


def roundtrip(value: object) -> object:
    return pickling.loads(pickling.dumps(value))


def test_a_circuit_travels_as_qpy_and_is_the_same_circuit() -> None:
    circuit = QuantumCircuit(2, 2, name="bell", metadata={"run": 3})
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure([0, 1], [0, 1])
    data = pickling.dumps(circuit)
    assert b"QISKIT" in data
    copy = pickling.loads(data)
    assert copy == circuit
    assert (copy.name, copy.metadata) == ("bell", {"run": 3})


def test_parameters_keep_their_identity_across_circuits_and_beside_them() -> None:
    theta = Parameter("theta")
    one, two = QuantumCircuit(1), QuantumCircuit(1)
    one.rx(theta, 0)
    two.rz(2 * theta, 0)
    first, second, parameter = roundtrip([one, two, theta])  # type: ignore[misc]
    assert first.parameters == second.parameters
    assert first.assign_parameters({parameter: 0.5}).parameters == set()


def test_what_qpy_cannot_hold_is_pickled_all_the_same() -> None:
    circuit = QuantumCircuit(1, metadata={"callback": {1, 2}})
    copy = roundtrip(circuit)
    assert isinstance(copy, QuantumCircuit)
    assert copy.metadata == {"callback": {1, 2}}


def test_functions_of_main_and_their_globals_travel_by_value() -> None:
    script = (
        "import base64, sys\n"
        "from qonduit.program import pickling\n"
        "offset = 40\n"
        "def add(x): return x + offset\n"
        "sys.stdout.write(base64.b64encode(pickling.dumps(add)).decode())\n"
    )
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    read = (
        "import base64, sys\nfrom qonduit.program import pickling\n"
        "print(pickling.loads(base64.b64decode(sys.argv[1]))(2))"
    )
    told = subprocess.run([sys.executable, "-c", read, made.stdout], capture_output=True, check=True, text=True)
    assert told.stdout.strip() == "42"


def test_a_runtime_service_is_named_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    from qiskit_ibm_runtime import QiskitRuntimeService  # noqa: PLC0415 - Costs seconds; only this test pays.

    service = object.__new__(QiskitRuntimeService)
    service.secret = "of the driver"  # type: ignore[attr-defined]
    data = pickling.dumps({"service": service})
    assert b"of the driver" not in data
    stands_in = object()
    monkeypatch.setattr(pickling, "runtime_service", lambda: stands_in)
    assert pickling.loads(data)["service"] is stands_in


def test_arrays_and_plain_values_go_through() -> None:
    array = np.arange(12.0).reshape(3, 4)
    copy = roundtrip({"a": array, "n": (1, "x", None)})
    assert isinstance(copy, dict)
    assert np.array_equal(copy["a"], array)
    assert copy["n"] == (1, "x", None)


def test_what_cannot_travel_says_so() -> None:
    with pytest.raises((TypeError, pickle.PicklingError)):
        pickling.dumps(i for i in range(3))


class TwoPartsError(Exception):
    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} at {where}")
        self.where = where


def test_an_exception_whose_constructor_takes_other_arguments_keeps_its_type() -> None:
    error = TwoPartsError("broken", "home")
    error.add_note("a note")
    copy = roundtrip(error)
    assert isinstance(copy, TwoPartsError)
    assert (str(copy), copy.where, copy.__notes__) == ("broken at home", "home", ["a note"])
    missing = roundtrip(FileNotFoundError(2, "no such file", "x.tar"))
    assert isinstance(missing, FileNotFoundError)
    assert missing.filename == "x.tar"
