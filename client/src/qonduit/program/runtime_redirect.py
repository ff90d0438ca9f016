"""Points the qiskit-ibm-runtime client of this process at the program's own QPU endpoint."""

from __future__ import annotations

import functools
import inspect
import os
from pathlib import Path
from typing import Any

_OUR_INSTANCE = "QISKIT_IBM_INSTANCE"
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
    explicit token never leaves the program. Does nothing without an endpoint in the environment; safe to call twice.
    """
    url = os.environ.get("QISKIT_IBM_URL")
    if not url:
        return
    from qiskit_ibm_runtime import QiskitRuntimeService  # noqa: PLC0415 -- programs without a QPU don't pay for it.
    from qiskit_ibm_runtime.accounts import account, management  # noqa: PLC0415

    account.IBM_QUANTUM_PLATFORM_API_URL = url
    # Both were fixed at import, maybe by another process with another home.
    management._DEFAULT_ACCOUNT_CONFIG_JSON_FILE = str(  # noqa: SLF001
        Path("~/.qiskit/qiskit-ibm.json").expanduser()
    )
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
            bound.arguments["instance"] = os.environ.get(_OUR_INSTANCE)
        original(*bound.args, **bound.kwargs)

    QiskitRuntimeService.__init__ = redirected
