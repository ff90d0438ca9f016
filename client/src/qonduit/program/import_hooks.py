"""Runs something once a module has been imported, for programs that may never import it."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


def after_import(name: str, action: Callable[[], None]) -> None:
    """Call `action` now when a module is there, else as soon as its import is done. Safe to call twice."""
    if name in sys.modules:
        action()
    elif not any(isinstance(finder, _OnImport) and finder.waits_for(name, action) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OnImport(name, action))


class _OnImport(importlib.abc.MetaPathFinder):
    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self._name = name
        self._action = action

    def waits_for(self, name: str, action: Callable[[], None]) -> bool:
        return (self._name, self._action) == (name, action)

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_act(module: ModuleType) -> None:
            execute(module)
            self._action()

        spec.loader.exec_module = execute_and_act  # type: ignore[method-assign]
        return spec
