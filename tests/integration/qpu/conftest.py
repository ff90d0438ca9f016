"""Fixtures of the QPU tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fake_ibm import FakeIbm, Instance
from mortal_broker import make_requests_steps
from qpu_fixtures import services, worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


__all__ = ["ibm", "services", "worker"]


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
