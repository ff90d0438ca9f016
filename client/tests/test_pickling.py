"""What arrives of a value, whatever it is made of."""

from __future__ import annotations

import enum
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qonduit.program import pickling

if TYPE_CHECKING:
    from pathlib import Path


def roundtrip(value: Any) -> Any:
    return pickling.loads(pickling.dumps(value))


class Colour(enum.Enum):
    RED = 1


@dataclass
class Point:
    x: float
    tags: list[str]


class OddError(Exception):
    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.hint = hint


@pytest.mark.parametrize(
    "value",
    [
        None,
        ((1,), {}),
        (("text", b"bytes", 2.5, True), {"key": [1, (2, {"deep": None})]}),
        [[[[[[1]]]]]],
        list(range(1000)),
        {1, 2, 3},
        bytearray(b"x"),
        2**100,
        1 + 2j,
        Point(1.0, ["a"]),
        Colour.RED,
        {Colour.RED: Point},
        range(3),
        b"\x80" * 10,
        b"",
    ],
)
def test_a_value_arrives_as_it_was(value: object) -> None:
    copy = roundtrip(value)
    assert copy == value
    assert type(copy) is type(value)


def test_one_object_at_two_places_stays_one() -> None:
    shared = [1]
    copy = roundtrip({"a": shared, "b": (shared, shared)})
    assert copy["a"] is copy["b"][0] is copy["b"][1]
    circle: list[Any] = []
    circle.append(circle)
    copy = roundtrip(circle)
    assert copy[0] is copy


def test_an_exception_with_a_constructor_of_its_own_arrives() -> None:
    copy = roundtrip(OddError(3, hint="x"))
    assert (type(copy), copy.code, copy.hint, str(copy)) == (OddError, 3, "x", "code 3")


def python(*lines: str, path: Path | str = "") -> str:
    """Run a program of its own, which finds `path` in `sys.argv`, and return what it printed."""
    script = "\n".join(("import sys", "from qonduit.program import pickling", *lines))
    told = subprocess.run([sys.executable, "-c", script, str(path)], check=True, capture_output=True, text=True)
    return told.stdout.strip()


OWN_CIRCUIT = """
from qiskit import QuantumCircuit
class Own(QuantumCircuit):
    def twice(self): return 2 * self.n
value = Own(2)
value.n = 21
value.h(0)
"""
OWN_GATE = """
from qiskit import QuantumCircuit
from qiskit.circuit import Gate
class Own(Gate):
    def __init__(self): super().__init__('x', 1, [])
    def told(self): return 42
value = QuantumCircuit(1)
value.append(Own(), [0])
"""


@pytest.mark.parametrize(
    ("script", "expression", "told"),
    [
        ("offset = 40\ndef value(x): return x + offset", "value(2)", "42"),
        ("class Own:\n    def twice(self): return 2 * self.x\nvalue = Own(); value.x = 21", "value.twice()", "42"),
        ("class Own:\n    def __init__(self): self.x = 42\nvalue = ((1, [Own()]), {})", "value[0][1][0].x", "42"),
        ("class Own(int): pass\nvalue = Own(42)", "value + 0, type(value).__name__", "(42, 'Own')"),
        (
            "class Own(Exception): pass\nvalue = Own('forty', 2)",
            "value.args, type(value).__name__",
            "(('forty', 2), 'Own')",
        ),
        ("import enum\nclass Own(enum.Enum):\n    A = 42\nvalue = {'k': Own.A}", "value['k'].value", "42"),
        ("from typing import NamedTuple\nclass Own(NamedTuple):\n    x: int\nvalue = Own(42)", "value.x", "42"),
        (OWN_CIRCUIT, "value.twice(), value.count_ops()['h']", "(42, 1)"),
        (OWN_GATE, "value.data[0].operation.told()", "42"),
    ],
)
def test_what_main_defines_arrives_in_a_process_with_another_main(
    script: str, expression: str, told: str, tmp_path: Path
) -> None:
    python(script, "open(sys.argv[1], 'wb').write(pickling.dumps(value))", path=tmp_path / "value")
    read = "value = pickling.loads(open(sys.argv[1], 'rb').read())"
    assert python(read, f"print(({expression}))", path=tmp_path / "value") == told


def test_large_arrays_are_not_copied_on_either_side() -> None:
    array = np.arange(100_000.0)
    parts = pickling.dump_parts({"a": array, "n": 1})
    views = [np.frombuffer(part, dtype=np.uint8) for part in parts if isinstance(part, memoryview)]
    assert any(np.shares_memory(view, array) for view in views)
    data = bytearray(b"".join(parts))
    copy = pickling.loads(memoryview(data))["a"]
    assert np.array_equal(copy, array)
    assert np.shares_memory(copy, np.frombuffer(data, dtype=np.uint8))


def test_arrays_lie_on_64_byte_boundaries_of_the_container() -> None:
    arrays = [np.full(size, 7, dtype=np.uint8) for size in (8193, 10_001, 20_000)]
    data = b"".join(pickling.dump_parts(arrays))
    whole = np.frombuffer(data, dtype=np.uint8)
    for copy in pickling.loads(data, writable=False):
        assert (copy.ctypes.data - whole.ctypes.data) % 64 == 0


@pytest.mark.parametrize("size", [3, 100_000])
def test_arrays_of_a_message_can_be_written_to(size: int) -> None:
    data = pickling.dumps(np.arange(size))
    copy = pickling.loads(data)
    copy[0] = 99
    assert pickling.loads(data)[0] == 0


def test_arrays_of_a_read_only_mapping_are_read_only() -> None:
    data = pickling.dumps(np.arange(100_000))
    for copy in (pickling.loads(memoryview(data)), pickling.loads(bytearray(data), writable=False)):
        with pytest.raises(ValueError, match="read-only"):
            copy[0] = 99


def test_a_read_only_array_and_a_strided_one_arrive_as_such() -> None:
    frozen = np.arange(100_000)
    frozen.flags.writeable = False
    fortran = np.asfortranarray(np.arange(40_000.0).reshape(200, 200))
    strided = np.arange(100_000)[::3]
    copies = roundtrip([frozen, fortran, strided, np.array([]), np.array(["x", None], dtype=object)])
    assert not copies[0].flags.writeable
    assert copies[1].flags.f_contiguous
    assert np.array_equal(copies[1], fortran)
    assert np.array_equal(copies[2], strided)
    assert copies[3].size == 0
    assert list(copies[4]) == ["x", None]


def test_one_array_at_two_places_stays_one() -> None:
    array = np.zeros(100_000)
    parts = pickling.dump_parts([array, array])
    assert sum(map(len, parts)) < 1.5 * array.nbytes
    one, two = pickling.loads(b"".join(parts))
    assert one is two


@pytest.mark.parametrize("cut", [1, 10, 5_000, 100_000])
def test_bytes_that_were_cut_short_are_refused(cut: int) -> None:
    data = pickling.dumps(np.arange(100_000))
    with pytest.raises(ValueError, match=r"cut short|no encoded value"):
        pickling.loads(data[:cut])


@pytest.mark.parametrize("data", [b"", b"{}", b"QISKIT" + bytes(40)])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no encoded value"):
        pickling.loads(data)


def test_what_cannot_be_pickled_says_so() -> None:
    with pytest.raises(TypeError, match="pickle"):
        pickling.dumps({"a": (i for i in range(3))})


def test_a_program_without_circuits_does_not_import_qiskit() -> None:
    assert python("pickling.loads(pickling.dumps([{1}, lambda: 2]))", "print('qiskit' in sys.modules)") == "False"
