"""Points the qiskit-ibm-runtime client of this process at the program's own QPU endpoint."""

from __future__ import annotations

import functools
import importlib.abc
import importlib.util
import inspect
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_CLIENT = "qiskit_ibm_runtime"
_ACCOUNT_ARGUMENTS = (
    "token",
    "url",
    "filename",
    "name",
    "proxies",
    "verify",
    "private_endpoint",
    "url_resolver",
    "region",
    "plans_preference",
    "tags",
)


def redirect_runtime_client() -> None:
    """Have `QiskitRuntimeService(...)` ask the environment's endpoint, whatever account a program names.

    The client takes its account from the environment by itself, unless a program passes a token, a URL or the name of
    a saved account. Those mean an account of the author's own, which does not exist in here: they are dropped, and an
    explicit token never leaves the program. Where the client is not imported yet, it is changed when it is. Does
    nothing without an endpoint in the environment; safe to call twice.
    """
    if not os.environ.get("QISKIT_IBM_URL"):
        return
    if _CLIENT in sys.modules:
        _redirect()
    elif not any(isinstance(finder, _OnImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OnImport())


class _OnImport(importlib.abc.MetaPathFinder):
    """Changes the client once its import is done; a program without a QPU never pays for that import."""

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _CLIENT:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_redirect(module: ModuleType) -> None:
            execute(module)
            _redirect()

        spec.loader.exec_module = execute_and_redirect  # type: ignore[method-assign]
        return spec


def _redirect() -> None:
    from qiskit_ibm_runtime import QiskitRuntimeService  # noqa: PLC0415 -- imported by the program, or being so.
    from qiskit_ibm_runtime.accounts import account, management  # noqa: PLC0415

    account.IBM_QUANTUM_PLATFORM_API_URL = os.environ["QISKIT_IBM_URL"]
    # It was fixed at import, maybe in another process with another home.
    saved = Path("~/.qiskit/qiskit-ibm.json").expanduser()
    management._DEFAULT_ACCOUNT_CONFIG_JSON_FILE = str(saved)  # noqa: SLF001
    original = QiskitRuntimeService.__init__
    if hasattr(original, "__wrapped__"):
        return
    signature = inspect.signature(original)

    @functools.wraps(original)
    def redirected(self: Any, *arguments: Any, **named: Any) -> None:
        bound = signature.bind(self, *arguments, **named)
        for name in _ACCOUNT_ARGUMENTS:
            bound.arguments.pop(name, None)
        if bound.arguments.get("instance") not in {None, "auto"}:
            bound.arguments["instance"] = os.environ.get("QISKIT_IBM_INSTANCE")
        original(*bound.args, **bound.kwargs)

    QiskitRuntimeService.__init__ = redirected
