"""Fixtures of the QPU tests."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from fake_ibm import FakeIbm, Instance
from mortal_broker import make_requests_steps
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


@pytest.fixture
async def ibm(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeIbm]:
    """The fake of IBM's service with two instances, and a broker in this process on it."""
    service = FakeIbm(Instance(plan="paygo"), Instance("second", number=2, api_keys=frozenset({"second-key"})))
    await service.start()
    for name, value in service.hosts().items():
        monkeypatch.setenv(name, value)
    make_requests_steps(monkeypatch)
    yield service
    await service.stop()
