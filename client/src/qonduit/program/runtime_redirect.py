"""Points the qiskit-ibm-runtime client of this process at the program's own QPU endpoint."""

from __future__ import annotations

import functools
import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qonduit.program.devices import in_executor, keep
from qonduit.program.import_hooks import after_import
from qonduit.program.older_clients import lead_older_client
from qonduit.program.steady_payloads import steady_payloads

if TYPE_CHECKING:
    from collections.abc import Callable

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
    after_import(_CLIENT, _redirect)
    steady_payloads()


def _redirect() -> None:
    from qiskit_ibm_runtime import QiskitRuntimeService  # noqa: PLC0415 -- imported by the program, or being so.
    from qiskit_ibm_runtime.accounts import account, management  # noqa: PLC0415

    account.IBM_QUANTUM_PLATFORM_API_URL = os.environ["QISKIT_IBM_URL"]
    lead_older_client()
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
        if in_executor():
            _initialize_once(self, original, bound)
        else:
            original(*bound.args, **bound.kwargs)

    QiskitRuntimeService.__init__ = redirected
    if in_executor():
        QiskitRuntimeService.backend = _kept_backend(QiskitRuntimeService.backend)


def _initialize_once(service: Any, original: Callable[..., None], bound: inspect.BoundArguments) -> None:
    """Give a service what the last one with the same arguments found out: its account, instances and connections."""
    given = {name: value for name, value in bound.arguments.items() if name != "self"}

    def make() -> dict[str, Any]:
        original(*bound.args, **bound.kwargs)
        return dict(service.__dict__)

    service.__dict__.update(keep(("service", repr(given)), make, lambda _: None))


def _kept_backend(original: Callable[..., Any]) -> Callable[..., Any]:
    """Hand out a backend again: each task asks for it, and its target takes a tenth of a second to build."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def backend(*arguments: Any, **named: Any) -> Any:
        bound = signature.bind(*arguments, **named)
        bound.apply_defaults()
        given = tuple(value for name, value in bound.arguments.items() if name != "self")
        return keep(("backend", given), lambda: original(*arguments, **named), lambda made: made.target)

    return backend
