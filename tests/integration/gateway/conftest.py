"""Fixtures: one storage service for all tests here, a gateway for each module, a user for each test."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from integration.gateway.rig import ADMIN_TOKEN, Client, Cluster, Service
from qonduit_api.v1 import cluster_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from qonduit_service_kit.testing import PrivateBroker


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("key") / "internal.key"


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory, key_file: Path) -> Iterator[Service]:
    service = Service("storage", tmp_path_factory.mktemp("storage"), {"INTERNAL_KEY_FILE": str(key_file)})
    service.start()
    yield service
    service.stop()


@pytest.fixture(scope="session")
def new_gateway(storage: Service, key_file: Path) -> Callable[..., Service]:
    """Start a gateway in a folder, on a bus, with settings of its own."""

    def start(folder: Path, bus_url: str, **settings: str) -> Service:
        folder.mkdir(parents=True, exist_ok=True)
        token_file = folder / "admin.token"
        token_file.write_text(ADMIN_TOKEN + "\n")
        wiring = {
            "INTERNAL_KEY_FILE": str(key_file),
            "AMQP_URL": bus_url,
            "STORAGE_ADDRESS": storage.address,
            "ADMIN_TOKEN_FILE": str(token_file),
        }
        service = Service("gateway", folder, {**wiring, **settings})
        service.start()
        return service

    return start


@pytest.fixture(scope="module")
def module_bus_url(broker: PrivateBroker) -> Iterator[str]:
    """URL of a vhost that one module of tests shares."""
    name = f"m-{uuid.uuid4().hex[:12]}"
    yield broker.vhost_url(name)
    broker.node.remove_vhost(name)


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, new_gateway: Callable[..., Service], module_bus_url: str
) -> Iterator[Service]:
    """One gateway for a module whose tests leave it whole; each works as a user of its own."""
    service = new_gateway(tmp_path_factory.mktemp("gateway"), module_bus_url, ARTIFACT_LIMIT_BYTES=str(2 * 1024**2))
    yield service
    service.stop()


@pytest.fixture
async def admin(gateway: Service) -> AsyncIterator[Client]:
    """The administrator."""
    made = Client(gateway.address, ADMIN_TOKEN)
    yield made
    await made.close()


@pytest.fixture
async def new_user(admin: Client, gateway: Service) -> AsyncIterator[Callable[[], Awaitable[Client]]]:
    """Make users that nobody else is."""
    made: list[Client] = []

    async def make() -> Client:
        name = f"user-{uuid.uuid4().hex[:12]}"
        answer = await admin.cluster.CreateUser(cluster_pb2.CreateUserRequest(name=name))
        made.append(Client(gateway.address, answer.token, name))
        return made[-1]

    yield make
    for each in made:
        await each.close()


@pytest.fixture
async def client(new_user: Callable[[], Awaitable[Client]]) -> Client:
    """A user of this test alone."""
    return await new_user()


@pytest.fixture
async def other(new_user: Callable[[], Awaitable[Client]]) -> Client:
    """A second user."""
    return await new_user()


@pytest.fixture
async def cluster(module_bus_url: str) -> AsyncIterator[Cluster]:
    made = Cluster(module_bus_url)
    await made.start()
    yield made
    await made.stop()
