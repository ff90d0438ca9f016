"""Runs a class `Runner`, where that is all that an entrypoint has: the form of providers' functions elsewhere.

There a server's own script imports the class, calls `Runner().run(arguments)` and saves what that returns.
"""

from __future__ import annotations

import ast
import inspect
from typing import TYPE_CHECKING, Any, Final

from qonduit.program.api import get_arguments, save_result
from qonduit.program.written_result import result_is_saved

if TYPE_CHECKING:
    from types import ModuleType

_NAME: Final = "Runner"


def unused_runner(module: ModuleType, source: bytes) -> type[Any] | None:
    """Return the class that a file defines to be run, after the file was run as a script; None if it has none.

    No ordinary program has one: the file defines it at its top level and mentions it nowhere else, so that whoever
    runs the file alone runs nothing of it; it is made of nothing, its `run` takes the arguments; and no result was
    saved.
    """
    if b"class Runner" not in source or not _is_only_defined(source):
        return None
    runner = module.__dict__.get(_NAME)
    if not isinstance(runner, type) or runner.__module__ != module.__name__ or not _takes_arguments(runner):
        return None
    return None if result_is_saved() else runner


def run_runner(runner: type[Any]) -> None:
    """Run it with the job's arguments, and save what it returns, unless it saved something itself."""
    result = runner().run(get_arguments())
    if result is not None and not result_is_saved():
        save_result(result)


def _is_only_defined(source: bytes) -> bool:
    statements = ast.parse(source).body
    own = [each for each in statements if isinstance(each, ast.ClassDef) and each.name == _NAME]
    others = (node for each in statements if each not in own for node in ast.walk(each))
    return len(own) == 1 and not any(isinstance(node, ast.Name) and node.id == _NAME for node in others)


def _takes_arguments(runner: type[Any]) -> bool:
    try:
        inspect.signature(runner).bind()
        inspect.signature(runner.run).bind(None, {})
    except (AttributeError, TypeError, ValueError):
        return False
    return True
