r"""JSON with large arrays and circuits behind it, in place of base64 within it.

    b"QVALUE1\\n"        8 bytes
    json_bytes          the length of the JSON; this and all numbers are of 8 bytes, unsigned, little-endian
    count               the number of segments
    length ...          of each segment
    the JSON            UTF-8
    segments            each at the next multiple of 64 bytes from the beginning

In the JSON `{"__type__": "segment", "__value__": {"kind": ..., "number": ...}}` stands for each; `kind` is "npy" for an
array in numpy's own file format, or "qpy.zst" for a circuit as QPY, compressed with zstandard. Nothing is pickled.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qiskit import QuantumCircuit

MAGIC: Final = b"QVALUE1\n"
TYPE: Final = "segment"
LEAST_BYTES: Final = 1024**2
"""What is smaller stays in the JSON, where everybody can read it."""
_NUMBER: Final = struct.Struct("<Q")
_ALIGNMENT: Final = 64
_INSTRUCTION_BYTES: Final = 32
"""Of QPY, about: writing it just to see how long it is would take as long as the rest."""
_FASTEST: Final = 1


class SegmentError(ValueError):
    """These bytes are no JSON with segments; the text says why."""


class Segments:
    """What an encoder puts behind its JSON."""

    def __init__(self) -> None:
        self._contents: list[bytes | memoryview] = []

    def __bool__(self) -> bool:
        return bool(self._contents)

    def take(self, value: Any) -> dict[str, Any] | None:
        """Return what stands in the JSON for a large array or circuit, which is kept; None for everything else."""
        import numpy as np  # noqa: PLC0415 - Plain values need neither this nor Qiskit.
        from qiskit import QuantumCircuit  # noqa: PLC0415 - As above.

        if isinstance(value, np.ndarray) and value.nbytes >= LEAST_BYTES and not value.dtype.hasobject:
            buffer = io.BytesIO()
            np.save(buffer, value, allow_pickle=False)
            return self._keep("npy", buffer.getbuffer())
        if isinstance(value, QuantumCircuit) and len(value.data) * _INSTRUCTION_BYTES >= LEAST_BYTES:
            return self._keep("qpy.zst", _qpy(value))
        return None

    def _keep(self, kind: str, content: bytes | memoryview) -> dict[str, Any]:
        self._contents.append(content)
        return {"__type__": TYPE, "__value__": {"kind": kind, "number": len(self._contents) - 1}}

    def behind(self, text: bytes) -> bytes:
        """Return the JSON with what was kept behind it."""
        numbers = (len(text), len(self._contents), *map(len, self._contents))
        return b"".join(_padded([MAGIC + b"".join(map(_NUMBER.pack, numbers)) + text, *self._contents]))


class Packed:
    """JSON with segments, to be read: only what is asked for is decoded.

    Raises:
        SegmentError: The bytes are cut off, or no such thing.
    """

    def __init__(self, data: bytes) -> None:
        view = memoryview(data)
        json_bytes, count = _numbers(view, len(MAGIC), 2)
        table = len(MAGIC) + 2 * _NUMBER.size
        if count > len(data) // _NUMBER.size:
            raise SegmentError("The table of its segments is cut off.")
        start = table + count * _NUMBER.size
        self.text = bytes(view[start : start + json_bytes])
        at = start + json_bytes
        self._contents: list[memoryview] = []
        for length in _numbers(view, table, count):
            at = _aligned(at)
            self._contents.append(view[at : at + length])
            at += length
        if at > len(data):
            raise SegmentError(f"{len(data):,} of {at:,} bytes are here: the rest is cut off.")

    def value_of(self, reference: Mapping[str, Any]) -> Any:
        """Return what a segment holds; an array is the caller's own and may be changed."""
        kind, number = reference.get("kind"), reference.get("number")
        if not isinstance(number, int) or not 0 <= number < len(self._contents):
            raise SegmentError(f"There is no segment {number!r}.")
        content = self._contents[number]
        if kind == "npy":
            import numpy as np  # noqa: PLC0415 - As above.

            return np.load(io.BytesIO(content), allow_pickle=False)
        if kind == "qpy.zst":
            return _circuit(content)
        raise SegmentError(f"Segments of kind {kind!r} are not known here: a newer Qonduit wrote them.")


def _padded(parts: list[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    at = 0
    for part in parts:
        yield bytes(_aligned(at) - at)
        yield part
        at = _aligned(at) + len(part)


def _aligned(at: int) -> int:
    return -(-at // _ALIGNMENT) * _ALIGNMENT


def _numbers(view: memoryview, at: int, count: int) -> list[int]:
    try:
        return [_NUMBER.unpack_from(view, at + place * _NUMBER.size)[0] for place in range(count)]
    except struct.error as error:
        raise SegmentError("Its beginning is cut off.") from error


def _qpy(circuit: QuantumCircuit) -> bytes:
    import zstandard  # noqa: PLC0415 - As above.
    from qiskit import qpy  # noqa: PLC0415 - As above.
    from qiskit_ibm_runtime import RuntimeEncoder  # noqa: PLC0415 - As above.

    buffer = io.BytesIO()
    qpy.dump(circuit, buffer, metadata_serializer=RuntimeEncoder)
    return zstandard.ZstdCompressor(level=_FASTEST).compress(buffer.getbuffer())


def _circuit(content: memoryview) -> QuantumCircuit:
    import zstandard  # noqa: PLC0415 - As above.
    from qiskit import qpy  # noqa: PLC0415 - As above.
    from qiskit_ibm_runtime import RuntimeDecoder  # noqa: PLC0415 - As above.

    with zstandard.ZstdDecompressor().stream_reader(content) as reader:
        (circuit,) = qpy.load(io.BytesIO(reader.read()), metadata_deserializer=RuntimeDecoder)
    return circuit
