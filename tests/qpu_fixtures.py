"""Fixtures of tests that need the QPU broker."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from qpu_world import Services, Worker, start_services

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from qonduit_service_kit.testing import PrivateBroker


@pytest.fixture(scope="session")
def services(broker: PrivateBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Storage and a QPU broker that all tests share."""
    started = start_services(broker, tmp_path_factory.mktemp("qpu"))
    yield started
    started.stop()


@pytest.fixture
async def worker(services: Services, tmp_path: Path) -> AsyncIterator[Worker]:
    """A worker without sandboxes yet."""
    made = Worker(services, tmp_path)
    await made.start()
    yield made
    with suppress(TimeoutError):
        await made.stop()
