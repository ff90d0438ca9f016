"""Arguments and results as JSON, in the encoding of qiskit-ibm-runtime.

Plain values (None, bool, int, float, str, and lists, tuples and dicts of them) never import Qiskit.
Circuits, numpy arrays and scalars, complex numbers, sets, dates, SparsePauliOp and other operators,
PrimitiveResult and its parts come back as what they were. As in all JSON, a tuple comes back as a list,
and numbers that are keys of a dict come back as text. Masked arrays are refused. Arrays and circuits of more than 1 MiB
are put behind the JSON (`qonduit.large_values`), as base64 within it takes ten times as long.
"""

from __future__ import annotations

import inspect
import json
from functools import cache
from typing import TYPE_CHECKING, Any

from qonduit.exceptions import NotSerializableError
from qonduit.large_values import MAGIC, Packed, Segments
from qonduit.large_values import TYPE as SEGMENT

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NotSerializableError", "decode", "encode", "encode_text"]

_PLAIN = (str, int, float, bool, type(None))
_TAG = "__type__"


def encode(value: Any, *, name: str = "result") -> bytes:
    """Return a value as JSON in UTF-8, with what is large behind it.

    Args:
        value: What to encode.
        name: What error texts call the value: "arguments", "result".

    Raises:
        NotSerializableError: It names the part that cannot be encoded: "arguments['callback'] is a function".
    """
    segments = Segments()
    text = _text(value, name, segments).encode()
    return segments.behind(text) if segments else text


def encode_text(value: Any, *, name: str = "result") -> str:
    """Return a value as JSON alone, however large it is; otherwise as `encode`."""
    return _text(value, name, None)


def _text(value: Any, name: str, segments: Segments | None) -> str:
    try:
        return _dumps(value, segments)
    except Exception as error:  # Encoders of foreign types raise whatever they like.
        path, part, cause = _find_culprit(value, name, error)
        raise NotSerializableError(_describe(path, part, cause)) from error


def decode(data: bytes | str) -> Any:
    """Return the value that `encode` wrote; ValueError if it is not JSON."""
    packed = Packed(data) if isinstance(data, bytes) and data.startswith(MAGIC) else None
    text = packed.text if packed is not None else data
    text = text.decode() if isinstance(text, bytes) else text
    if _TAG not in text:
        return json.loads(text)

    def hook(item: dict[str, Any]) -> Any:
        if packed is not None and item.get(_TAG) == SEGMENT:
            return packed.value_of(item["__value__"])
        return _decode_object(item)

    return json.loads(text, object_hook=hook)


def _dumps(value: Any, segments: Segments | None) -> str:
    if _is_plain(value):
        return json.dumps(value, separators=(",", ":"))
    return json.dumps(value, cls=_encoder(), separators=(",", ":"), segments=segments)


def _is_plain(value: Any) -> bool:
    """Whether the standard encoder gets by without help; exact types, so that no subclass slips through."""
    pending = [value]
    seen: set[int] = set()
    while pending:
        item = pending.pop()
        kind = type(item)
        if kind in _PLAIN:
            continue
        if kind not in {dict, list, tuple}:
            return False
        if id(item) in seen:  # Shared or circular: the encoder tells them apart.
            continue
        seen.add(id(item))
        pending.extend(item.values() if kind is dict else item)
    return True


@cache
def _encoder() -> type[json.JSONEncoder]:
    import numpy as np  # noqa: PLC0415
    from qiskit_ibm_runtime import RuntimeEncoder  # noqa: PLC0415

    class Encoder(RuntimeEncoder):  # type: ignore[misc]
        """The runtime's encoder, which also knows all numpy scalars and never drops a callable in silence."""

        def __init__(self, *, segments: Segments | None, **options: Any) -> None:
            super().__init__(**options)
            self._segments = segments

        def default(self, obj: Any) -> Any:
            if isinstance(obj, np.ma.MaskedArray):
                # Both ways to write an array know its data alone.
                raise TypeError("its mask would be lost: pass array.filled(...), or array.data and array.mask apart")
            if self._segments is not None and (reference := self._segments.take(obj)) is not None:
                return reference
            if isinstance(obj, np.generic):
                return obj.item()
            if inspect.isroutine(obj) or inspect.isclass(obj) or inspect.ismodule(obj):
                raise TypeError(_kind_of(obj))
            if callable(obj) and not any(hasattr(obj, name) for name in ("to_json", "settings", "_json")):
                return json.JSONEncoder.default(self, obj)
            return super().default(obj)

    return Encoder


@cache
def _runtime_hook() -> Any:
    from qiskit_ibm_runtime import RuntimeDecoder  # noqa: PLC0415

    # Only the hook: the decoder itself takes any dict with the key "program" for a request of its own.
    return RuntimeDecoder().object_hook


def _decode_object(item: dict[str, Any]) -> Any:
    if _TAG in item and "__value__" in item:
        return _runtime_hook()(item)
    return item


def _find_culprit(value: Any, path: str, error: Exception, above: tuple[int, ...] = ()) -> tuple[str, Any, Exception]:
    """Follow the first part that cannot be encoded by itself down to where it has no parts."""
    above = (*above, id(value))
    for child_path, child in _children(value, path):
        if id(child) in above:
            return child_path, child, RecursionError()
        try:
            _dumps(child, Segments())
        except Exception as child_error:  # noqa: BLE001 - As in encode.
            return _find_culprit(child, child_path, child_error, above)
    return path, value, error


def _children(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield f"{path}[{key!r}]", child
    elif isinstance(value, list | tuple):
        for index, child in enumerate(value):
            yield f"{path}[{index}]", child


def _describe(path: str, part: Any, cause: Exception) -> str:
    advice = "Pass numbers, text, lists, dicts, circuits, numpy arrays, operators or primitive results."
    if isinstance(cause, RecursionError):
        return f"{path} is one of the values that contain it, which JSON cannot express. {advice}"
    if isinstance(part, dict | list | tuple):
        return f"{path} cannot be written as JSON: {cause}. {advice}"
    text = f"{path} is {_kind_of(part)}, which cannot be written as JSON"
    if type(part).__name__ not in str(cause) and str(cause) != _kind_of(part):
        text += f" ({cause})"
    return f"{text}. {advice}"


def _kind_of(part: Any) -> str:
    if inspect.isclass(part):
        return f"the class {part.__qualname__}"
    if inspect.isroutine(part):
        return f"a function ({getattr(part, '__qualname__', repr(part))})"
    if inspect.ismodule(part):
        return f"the module {part.__name__}"
    kind = type(part)
    return f"a value of type {kind.__module__}.{kind.__qualname__}"
