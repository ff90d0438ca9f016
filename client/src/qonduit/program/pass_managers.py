"""Preset pass managers, built once a process for equal arguments and handed out as copies.

Building one takes 5 ms, a sixth of what it then takes to transpile a circuit of 40 qubits with it at level 1, and a
task that is handed a circuit and a device's name builds one each time. Looking whether the device is what it was and
copying takes a tenth of that. A copy has stages, lists and passes of its own, as far as they change when it is run or
edited, and shares what never does.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from qonduit.program.device_marks import mark_of

if TYPE_CHECKING:
    from collections.abc import Hashable

_NAME: Final = "generate_preset_pass_manager"
_HOMES: Final = (
    "qiskit",
    "qiskit.transpiler",
    "qiskit.transpiler.preset_passmanagers",
    f"qiskit.transpiler.preset_passmanagers.{_NAME}",
    "qiskit.compiler.transpiler",
)
_ORIGIN: Final = "_qonduit_origin"
_RUN: Final = frozenset({"property_set", _ORIGIN})
"""Attributes that say what happened to a pass manager or a pass, not what it does."""
_MOST_KEPT: Final = 16
_SHORT: Final = 64

_kept: dict[Hashable, Any] = {}


@dataclass(frozen=True, slots=True)
class _Origin:
    """What a pass manager was made with, and one like it that nobody else has."""

    arguments: dict[str, Any]
    original: Any

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies that go through pickle are no longer known by their origin."""
        return type(None), ()


def keep_pass_managers() -> None:
    """Have Qiskit's `generate_preset_pass_manager` build each kind once, under every name that Qiskit gives it."""
    from qiskit.transpiler import generate_preset_pass_manager as original  # noqa: PLC0415 - It has been imported.

    if hasattr(original, "__wrapped__"):
        return
    signature = inspect.signature(original)

    @functools.wraps(original)
    def generate_preset_pass_manager(*arguments: Any, **named: Any) -> Any:
        bound = signature.bind(*arguments, **named)
        key = _key(bound.arguments)
        if key is None:
            return original(*arguments, **named)
        kept = _kept.get(key)
        if kept is None or not _is_still(kept, key, bound.arguments):
            kept = original(*arguments, **named)
            if len(_kept) >= _MOST_KEPT:
                _kept.clear()
            _kept[key] = kept
        return _fresh(kept, bound.arguments)

    for home in _HOMES:
        module = sys.modules.get(home)
        if module is not None and module.__dict__.get(_NAME) is original:
            setattr(module, _NAME, generate_preset_pass_manager)


def reduce_pass_manager(pass_manager: Any) -> tuple[Any, ...] | None:
    """Return what a pass manager was made with, or None for one that is not, or no longer, what that makes."""
    origin = pass_manager.__dict__.get(_ORIGIN)
    if origin is None or not _same(pass_manager, origin.original, set()):
        return None
    return make_pass_manager, (dict(origin.arguments),)


def make_pass_manager(arguments: dict[str, Any]) -> Any:
    """Make the pass manager of these arguments; it has not been run."""
    from qiskit.transpiler import generate_preset_pass_manager  # noqa: PLC0415 - In a process that may not have it yet.

    return generate_preset_pass_manager(**arguments)


def _key(arguments: dict[str, Any]) -> Hashable | None:
    """Return all that a pass manager depends on, or None when that cannot be told from its arguments."""
    from qiskit import user_config  # noqa: PLC0415

    parts: list[Hashable] = [os.environ.get("QISKIT_TRANSPILER_SEED"), repr(user_config.get_config())]
    for name, value in arguments.items():
        part = _device(value) if name in {"backend", "target"} else _plain(value)
        if part is None and value is not None:
            return None
        parts.append((name, part))
    devices = arguments.get("backend") is not None
    # With these two Qiskit warns, each time.
    if devices and not (arguments.get("basis_gates") is None and arguments.get("coupling_map") is None):
        return None
    return tuple(parts)


def _plain(value: Any) -> Hashable | None:
    if isinstance(value, (bool, int, float, str)):
        return type(value), value
    if type(value) in (list, tuple) and all(isinstance(item, (int, str)) for item in value):
        return type(value), tuple(value)
    return None


def _device(value: Any) -> Hashable | None:
    kind = type(value)
    if kind.__module__.startswith("qiskit_ibm_runtime."):
        mark = mark_of(value.target)
        return mark and (kind, value.name, mark)
    return mark_of(value) if kind.__name__ == "Target" else None


def _is_still(kept: Any, key: Hashable, arguments: dict[str, Any]) -> bool:
    """Whether the device that a kept pass manager was built for is still what the key says."""
    own = kept.__dict__[_ORIGIN].arguments
    return all(own.get(name) is arguments.get(name) for name in ("backend", "target")) or _key(own) == key


def _fresh(kept: Any, arguments: dict[str, Any]) -> Any:
    if _ORIGIN not in kept.__dict__:
        kept.__dict__[_ORIGIN] = _Origin(dict(arguments), kept)
    made = _copied(kept, {})
    made.__dict__[_ORIGIN] = _Origin(dict(arguments), kept)
    made._update_passmanager()  # noqa: SLF001 - What each use of it begins with.
    return made


@functools.cache
def _has_passes(kind: Any) -> bool:
    from qiskit.passmanager import Task  # noqa: PLC0415
    from qiskit.transpiler import PassManager  # noqa: PLC0415

    return issubclass(kind, (Task, PassManager))


def _copied(value: Any, done: dict[int, Any]) -> Any:
    """Copy pass managers, controllers and passes, and the lists they are in; share all else."""
    kind: Any = type(value)
    if kind is list or kind is tuple:
        return kind([_copied(item, done) for item in value]) if len(value) <= _SHORT else value
    if not _has_passes(kind):
        return value
    if id(value) in done:
        return done[id(value)]
    made = done[id(value)] = object.__new__(kind)
    own = made.__dict__
    for name, part in value.__dict__.items():
        own[name] = type(part)(part) if name == "property_set" and part is not None else _copied(part, done)
    return made


def _same(one: Any, other: Any, seen: set[int]) -> bool:
    """Whether two pass managers do the same, where one was copied from the other."""
    if one is other or id(one) in seen:
        return True
    if type(one) is not type(other):
        return False
    kind: Any = type(one)
    if kind in (list, tuple):
        return len(one) == len(other) and all(_same(a, b, seen) for a, b in zip(one, other, strict=True))
    if not _has_passes(kind):
        return False
    seen.add(id(one))
    mine, theirs = ({name: v for name, v in x.__dict__.items() if name not in _RUN} for x in (one, other))
    return mine.keys() == theirs.keys() and all(_same(mine[name], theirs[name], seen) for name in mine)
