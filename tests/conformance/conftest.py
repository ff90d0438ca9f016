"""Fixtures of the QPU tests, and the stack that clients of Qiskit Serverless call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from qpu_fixtures import services, worker
from serverless_people import RestStack

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["rest_stack", "services", "worker"]


@pytest.fixture(scope="session")
def rest_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestStack]:
    """A stack, one for all files: clients of every version share it."""
    running = RestStack(tmp_path_factory.mktemp("stack"))
    running.up()
    yield running
    running.down()
