"""Arguments and results: what comes back, and what is refused with its place named."""

from __future__ import annotations

import datetime as dt
import math
import subprocess
import sys
import threading
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from qiskit import QuantumCircuit
from qiskit.primitives import PrimitiveResult, StatevectorSampler
from qiskit.quantum_info import SparsePauliOp
from qonduit.encoding import decode, encode
from qonduit.exceptions import NotSerializableError

plain = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text(),
    lambda values: some.lists(values) | some.dictionaries(some.text(), values),
    max_leaves=20,
)


def bell() -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    return circuit


@given(plain)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    assert decode(encode(value)) == value


def test_what_programs_of_qiskit_pass_around_comes_back() -> None:
    value = {
        "circuit": bell(),
        "circuits": [bell(), bell()],
        "observable": SparsePauliOp(["XX", "ZZ"], [1, 2j]),
        "complex": 1 + 2j,
        "set": {1, 2},
        "date": dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
        "nested": {"deep": [{"circuit": bell()}]},
    }
    assert decode(encode(value)) == value


def test_numpy_arrays_and_scalars_come_back() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    back = decode(
        encode({"array": array, "i": np.int32(3), "f": np.float16(0.5), "b": np.bool_(1), "c": np.complex64(1j)})
    )
    assert back["array"].dtype == array.dtype
    assert np.array_equal(back["array"], array)
    assert (back["i"], back["f"], back["b"], back["c"]) == (3, 0.5, True, 1j)


def test_a_primitive_result_comes_back() -> None:
    circuit = bell()
    circuit.measure_all()
    back = decode(encode(StatevectorSampler(seed=1).run([circuit], shots=100).result()))
    assert isinstance(back, PrimitiveResult)
    assert sum(back[0].data.meas.get_counts().values()) == 100


def test_tuples_become_lists_and_infinity_stays() -> None:
    assert decode(encode((1, (2, 3)))) == [1, [2, 3]]
    assert decode(encode([math.inf])) == [math.inf]


@pytest.mark.parametrize("value", [{"program": "vqe", "params": {}}, {"__type__": "mine"}, {"program": bell()}])
def test_names_that_the_encoding_uses_itself_are_nothing_special(value: dict[str, Any]) -> None:
    assert decode(encode(value)) == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"callback": print}, r"arguments\['callback'\] is a function \(print\)"),
        ({"a": [1, {"b": object()}]}, r"arguments\['a'\]\[1\]\['b'\] is a value of type builtins.object"),
        ({"lock": threading.Lock()}, r"arguments\['lock'\] is a value of type _thread.lock"),
        ({"kind": int}, r"arguments\['kind'\] is the class int"),
        ({"module": math}, r"arguments\['module'\] is the module math"),
        ({"data": b"bytes"}, r"arguments\['data'\] is a value of type builtins.bytes"),
        ({"by": {(1, 2): 3}}, r"arguments\['by'\] cannot be written as JSON: keys must be"),
        ({"array": np.array([print], dtype=object)}, r"arguments\['array'\] is a value of type numpy.ndarray"),
        (
            {"a": [np.ma.masked_array([1, 2], [0, 1])]},
            r"arguments\['a'\]\[0\] .*MaskedArray.* pass array\.filled\(",
        ),
        ({"large": np.ma.masked_array(np.zeros(200_000))}, r"arguments\['large'\] .*its mask would be lost"),
        ([np.ma.masked], r"arguments\[0\] .*its mask would be lost"),
        ([bell(), lambda: 1], r"arguments\[1\] is a function"),
    ],
)
def test_what_cannot_be_serialised_is_named(value: object, message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(NotSerializableError, match=message):
            encode(value, name="arguments")


def test_a_value_that_contains_itself_is_named() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    with pytest.raises(NotSerializableError, match=r"result\['loop'\]\[1\] is one of the values that contain it"):
        encode({"loop": loop})


def test_plain_values_load_neither_qiskit_nor_numpy() -> None:
    code = (
        "import sys\nfrom qonduit.encoding import decode, encode\n"
        "assert decode(encode({'a': [1, (2.5, None)]})) == {'a': [1, [2.5, None]]}\n"
        "assert not {'numpy', 'qiskit', 'qiskit_ibm_runtime'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
