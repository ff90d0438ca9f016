"""The runtime service, its backends and their targets, made once a process and handed out again.

What a task asks for, another task of the same executor will ask for. An executor therefore keeps what is expensive to
make, under its name or its content, and hands it out as long as nothing has changed it. A driver makes its own each
time, as without us: there a program may hold two of them and change one.
"""

from __future__ import annotations

import copy
import os
import pickle
import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import zstandard

from qonduit.program.device_marks import mark_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from qiskit.transpiler import Target
    from qiskit_ibm_runtime import IBMBackend, QiskitRuntimeService

KEPT_FOR_S: Final = 300.0
"""Calibrations change a few times a day, and a device may be withdrawn."""
_MOST_KEPT: Final = 32

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Kept:
    value: Any
    mark: Hashable | None
    until_s: float


_kept: dict[Hashable, _Kept] = {}


def in_executor() -> bool:
    """Whether this process runs tasks."""
    return os.environ.get("QONDUIT_KIND") == "executor"


def keep(key: Hashable, make: Callable[[], T], target_of: Callable[[T], Target | None]) -> T:
    """Return what was made for a key, or make it: when there is none, it is old, or its target was changed since."""
    kept = _kept.get(key)
    now = time.monotonic()
    if kept is not None and now < kept.until_s and _mark(target_of(kept.value)) == kept.mark:
        made: T = kept.value
        return made
    made = make()
    mark = _mark(target_of(made))
    if len(_kept) >= _MOST_KEPT:
        _kept.clear()  # Threads may do so at the same time; each then makes its own.
    _kept[key] = _Kept(made, mark, now + KEPT_FOR_S)
    return made


def _mark(target: Target | None) -> Hashable | None:
    return None if target is None else mark_of(target)


@cache
def runtime_service() -> QiskitRuntimeService:
    """Return this process's runtime service, made on first use."""
    from qiskit_ibm_runtime import QiskitRuntimeService  # noqa: PLC0415 - 1.5 s where it is not preloaded.

    return QiskitRuntimeService()


def load_backend(name: str, options: dict[str, Any], target: Target | None) -> IBMBackend:
    """Return a backend by name; with a target of its own when the sender had changed it."""
    key = ("sent backend", name, *sorted(options.items()))
    backend = keep(key, lambda: runtime_service().backend(name, **options), lambda made: made.target)
    if target is not None:
        backend = copy.copy(backend)
        backend._target = target  # noqa: SLF001 - What its `target` returns, as the sender's did.
    return backend


def reduce_backend(backend: IBMBackend) -> tuple[Any, ...]:
    """Return how to make a backend of the service again: the sender's is tied to the sender's own QPU endpoint."""
    given = {}
    if (fractional := backend.options.use_fractional_gates) is not False:  # None means something else: all gates.
        given["use_fractional_gates"] = fractional
    if backend.calibration_id is not None:
        given["calibration_id"] = backend.calibration_id
    return load_backend, (backend.name, given, None if _is_as_made(backend) else backend.target)


def _is_as_made(backend: IBMBackend) -> bool:
    target = backend.__dict__.get("_target")
    if target is None:
        return True
    made = backend.__dict__.get("_qonduit_mark")
    if made is None:
        from qiskit_ibm_runtime.utils.backend_converter import convert_to_target  # noqa: PLC0415 - There is a backend.

        again = convert_to_target(configuration=backend.configuration(), properties=backend.properties())
        made = backend.__dict__["_qonduit_mark"] = mark_of(again)
    return bool(made == mark_of(target))


def load_fake_backend(kind: type[Any]) -> Any:
    """Return one of the devices that qiskit-ibm-runtime describes, by its class."""
    if not in_executor():
        return kind()
    return keep(("fake backend", kind), kind, lambda made: made.target)


def reduce_fake_backend(backend: Any) -> tuple[Any, ...] | None:
    """Return its class, or None for one that a program has changed."""
    kind: Any = type(backend)
    if any(backend.__dict__.get(name) != value for name, value in _pristine_parts(kind).items()):
        return None
    target = backend.__dict__.get("_target")
    if target is not None and mark_of(target) != _pristine_mark(kind):
        return None
    return load_fake_backend, (kind,)


@cache
def _pristine_parts(kind: Any) -> dict[str, Any]:
    fresh = kind()
    return {name: getattr(fresh, name) for name in ("name", "description", "backend_version", "_options", "_provider")}


@cache
def _pristine_mark(kind: Any) -> Hashable | None:
    return mark_of(kind().target)


_encoded: dict[Hashable, bytes] = {}


def reduce_target(target: Target) -> tuple[Any, ...] | None:
    """Return a target's bytes, made once a content, or None for one with parts of a program's own."""
    mark = mark_of(target)
    if mark is None:
        return None
    if mark not in _encoded:
        if len(_encoded) >= _MOST_KEPT:
            _encoded.clear()
        _encoded[mark] = zstandard.ZstdCompressor(level=1).compress(pickle.dumps(target, 5))
    return load_target, (_encoded[mark],)


def load_target(data: bytes) -> Target:
    """Return the target of these bytes; an executor makes it once."""
    if not in_executor():
        return _decode_target(data)
    return keep(("target", data), lambda: _decode_target(data), lambda made: made)


def _decode_target(data: bytes) -> Target:
    target: Target = pickle.loads(zstandard.ZstdDecompressor().decompress(data))  # noqa: S301 - Of the same job.
    return target
