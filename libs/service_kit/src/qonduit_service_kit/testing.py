"""A real, private RabbitMQ for tests: a pytest plugin with the fixtures `broker`, `bus_url` and `make_bus`."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qonduit_service_kit.bus import Bus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    MakeBus = Callable[..., Awaitable[Bus]]
    """Starts a bus: make_bus(app_id="test", url=the vhost of this test); it is stopped after the test."""


def halt(pid: int) -> None:
    """Stop a process by SIGSTOP; returns once all of its threads stand, as on a busy machine some go on for a while."""
    os.kill(pid, signal.SIGSTOP)
    threads = Path(f"/proc/{pid}/task")
    while not all(map(_stands, threads.iterdir())):
        time.sleep(0.001)


def _stands(thread: Path) -> bool:
    try:
        state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True  # It has ended.
    return state in "TZX"


class PrivateBroker:
    """A RabbitMQ node in a temporary folder; several run side by side."""

    def __init__(self) -> None:
        # The node's code lives with the supervisor that starts one for users; only tests need both.
        from qonduit.stack.rabbitmq import RabbitNode  # noqa: PLC0415

        self._folder = Path(tempfile.mkdtemp(prefix="qonduit-rabbitmq-"))
        self.node = RabbitNode(self._folder / "node")

    @property
    def url(self) -> str:
        """AMQP URL of its default vhost."""
        return self.node.url

    def vhost_url(self, name: str) -> str:
        """Make an empty vhost and return its URL."""
        self.node.add_vhost(name)
        return f"{self.node.url.rstrip('/')}/{name}"

    def start(self) -> None:
        """Start it, or start it again on the same data."""
        self.node.start()

    def restart(self) -> None:
        """Stop in order and start again on the same data and ports."""
        self.node.stop()
        self.node.start()

    def kill(self) -> None:
        """End it as a crash would; `start` brings it back."""
        self.node.kill()

    def stop(self) -> None:
        """Stop it and remove its folder."""
        self.node.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def new_broker() -> PrivateBroker:
    """Return a started broker; without RabbitMQ a skip on a laptop and a failure in CI."""
    from qonduit.stack.rabbitmq import RabbitMQMissingError  # noqa: PLC0415

    broker = PrivateBroker()
    try:
        broker.start()
    except RabbitMQMissingError as error:
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(str(error))
        pytest.skip(str(error))
    return broker


@pytest.fixture(scope="session")
def broker() -> Iterator[PrivateBroker]:
    """One broker for the whole run; whoever kills it must start it again."""
    made = new_broker()
    yield made
    made.stop()


@pytest.fixture
def bus_url(broker: PrivateBroker) -> Iterator[str]:
    """URL of a vhost that this test alone uses."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    yield broker.vhost_url(name)
    broker.node.remove_vhost(name)


@pytest.fixture
async def make_bus(bus_url: str) -> AsyncIterator[MakeBus]:
    """Start buses that are stopped when the test ends."""
    made: list[Bus] = []

    async def make(app_id: str = "test", url: str = bus_url) -> Bus:
        bus = Bus(url, app_id=app_id)
        made.append(bus)
        await bus.start(timeout_s=30)
        return bus

    yield make
    for bus in made:
        await bus.stop()
