"""The names of `qiskit_serverless`, given by Qonduit, for programs and scripts that are run unchanged."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import qonduit

if TYPE_CHECKING:
    from qonduit import *  # noqa: F403

    from qiskit_serverless.programs import *  # noqa: F403

__version__ = qonduit.__version__
_OF_PROGRAMS = (
    "get_compute_profile",
    "get_function_size",
    "get_logger",
    "get_provider_logger",
    "get_runtime_service",
    "is_trial",
)
__all__ = sorted({*qonduit.__all__, *_OF_PROGRAMS})  # noqa: PLE0605 - they are strings.


def __getattr__(name: str) -> Any:
    if name == "ServerlessRuntimeService":
        # It is theirs to associate QPU jobs with the job; here the system does that for any service.
        return import_module("qiskit_ibm_runtime").QiskitRuntimeService
    if name in _OF_PROGRAMS:
        return getattr(import_module("qiskit_serverless.programs"), name)
    if name in __all__:
        return getattr(qonduit, name)
    raise AttributeError(
        f"Qonduit does not provide qiskit_serverless.{name}. It provides: {', '.join(sorted(__all__))}."
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
