"""What programs of Qiskit Serverless have beside `qonduit`'s own names."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qiskit_ibm_runtime import QiskitRuntimeService

__all__ = [
    "ServerlessError",
    "get_compute_profile",
    "get_function_size",
    "get_provider_logger",
    "get_runtime_service",
    "is_trial",
]


class ServerlessError(Exception):
    """An error that a program raises for its users: its code and message end the traceback that they read."""

    def __init__(self, code: str, message: str, details: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def __str__(self) -> str:
        behind = f"\n{self.details}" if self.details else ""
        return f"[{self.code}] {self.message}{behind}"


def get_runtime_service(**account: str | None) -> QiskitRuntimeService:
    """Return the service through which the program reaches QPUs; its QPU jobs are known as this job's in any case."""
    from qiskit_ibm_runtime import QiskitRuntimeService  # noqa: PLC0415 - not every program needs it.

    return QiskitRuntimeService(**{name: value for name, value in account.items() if value is not None})


def get_provider_logger() -> logging.Logger:
    """Return a logger whose lines begin with "[PRIVATE]"; an own function's author sees them all."""
    logger = logging.getLogger("qonduit.program.provider")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Private("%(levelname)s: %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger


def is_trial() -> bool:
    """Tell whether this is a trial run; there are none here."""
    return False


def get_function_size() -> str:
    """Return the size that the run named: none, as functions have no sizes here."""
    return ""


def get_compute_profile() -> str:
    """Return the machine that the run's size stands for: none, as above."""
    return ""


class _Private(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(f"[PRIVATE] {line}" for line in super().format(record).splitlines())
