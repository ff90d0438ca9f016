"""Fixtures: one storage service for all tests here, a gateway with its own database and vhost for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from integration.gateway.rig import ADMIN_TOKEN, Client, Cluster, Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("key") / "internal.key"


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory, key_file: Path) -> Iterator[Service]:
    service = Service("storage", tmp_path_factory.mktemp("storage"), {"INTERNAL_KEY_FILE": str(key_file)})
    service.start()
    yield service
    service.stop()


@pytest.fixture
def gateway_settings() -> dict[str, str]:
    """Settings that a test's module wants otherwise."""
    return {}


@pytest.fixture
def gateway(
    tmp_path: Path, storage: Service, key_file: Path, bus_url: str, gateway_settings: dict[str, str]
) -> Iterator[Service]:
    token_file = tmp_path / "admin.token"
    token_file.write_text(ADMIN_TOKEN + "\n")
    settings = {
        "INTERNAL_KEY_FILE": str(key_file),
        "AMQP_URL": bus_url,
        "STORAGE_ADDRESS": storage.address,
        "ADMIN_TOKEN_FILE": str(token_file),
        **gateway_settings,
    }
    service = Service("gateway", tmp_path / "gateway", settings)
    service.start()
    yield service
    service.stop()


@pytest.fixture
async def client(gateway: Service) -> AsyncIterator[Client]:
    made = Client(gateway.address, ADMIN_TOKEN)
    yield made
    await made.close()


@pytest.fixture
async def cluster(bus_url: str) -> AsyncIterator[Cluster]:
    made = Cluster(bus_url)
    await made.start()
    yield made
    await made.stop()
