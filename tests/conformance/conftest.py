"""Fixtures of the QPU tests."""

from qpu_fixtures import services, worker

__all__ = ["services", "worker"]
