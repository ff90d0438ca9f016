"""The names of `qiskit_serverless`, given by Qonduit, for programs and scripts that are run unchanged."""

from typing import TYPE_CHECKING, Any

import qonduit

if TYPE_CHECKING:
    from qonduit import *  # noqa: F403

__version__ = qonduit.__version__
__all__ = list(qonduit.__all__)


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(qonduit, name)
    raise AttributeError(
        f"Qonduit does not provide qiskit_serverless.{name}. It provides: {', '.join(sorted(__all__))}."
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
