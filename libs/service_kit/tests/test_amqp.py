"""What is said of a RabbitMQ that cannot be reached."""

from __future__ import annotations

import socket

import pytest
from qonduit_service_kit.bus.amqp import Connection
from qonduit_service_kit.bus.errors import LinkLostError


async def test_why_nobody_answers_is_told_in_words() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # Its port is nobody else's as long as it is open.
        with pytest.raises(LinkLostError) as lost:
            await Connection.open(f"amqp://guest:guest@127.0.0.1:{deaf.getsockname()[1]}/", name="test")
    assert str(lost.value) == "connection refused"
