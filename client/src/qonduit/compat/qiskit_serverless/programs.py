"""What programs of Qiskit Serverless have beside `qonduit`'s own names."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qiskit_ibm_runtime import QiskitRuntimeService

__all__ = [
    "get_compute_profile",
    "get_function_size",
    "get_logger",
    "get_provider_logger",
    "get_runtime_service",
    "is_trial",
]


def get_runtime_service(**account: str | None) -> QiskitRuntimeService:
    """Return the service through which the program reaches QPUs; its QPU jobs are known as this job's in any case."""
    from qiskit_ibm_runtime import QiskitRuntimeService  # noqa: PLC0415 - not every program needs it.

    return QiskitRuntimeService(**{name: value for name, value in account.items() if value is not None})


def get_logger() -> logging.Logger:
    """Return a logger whose lines begin with "[PUBLIC]": those that a provider's users may see."""
    return _logger("qonduit.program.public", "[PUBLIC]")


def get_provider_logger() -> logging.Logger:
    """Return a logger whose lines begin with "[PRIVATE]"; an own function's author sees them all."""
    return _logger("qonduit.program.provider", "[PRIVATE]")


def is_trial() -> bool:
    """Tell whether the user may only try the function."""
    return os.environ.get("ENV_ACCESS_TRIAL") == "True"


def get_function_size() -> str:
    """Return the size that the run named; empty for none."""
    return os.environ.get("ENV_JOB_FUNCTION_SIZE", "")


def get_compute_profile() -> str:
    """Return the machine that the run's size stands for; empty for none."""
    return os.environ.get("ENV_JOB_COMPUTE_PROFILE", "")


def _logger(name: str, prefix: str) -> logging.Logger:
    logger = logging.getLogger(name)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Prefixed(prefix))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger


class _Prefixed(logging.Formatter):
    def __init__(self, prefix: str) -> None:
        super().__init__("%(levelname)s: %(message)s")
        self._prefix = prefix

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(f"{self._prefix} {line}" for line in super().format(record).splitlines())
