"""A RabbitMQ that somebody else runs: whether it answers, before anything is started that needs it."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from qonduit.stack.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S: Final = 30.0
_PROBE_S: Final = 3.0
_PAUSE_S: Final = 0.5
_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_GREETING: Final = b"AMQP\x00\x00\x09\x01"
_CONNECTION_START: Final = b"\x01"


def check_url(url: str) -> None:
    """Raise ValueError, with what is wrong, unless a text is an AMQP URL."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("it must look like amqp://user:password@host:5672/vhost")
    _ = parts.port  # It raises for what is no port.


async def wait_until_it_answers(url: str, say: Callable[[str], None], patience_s: float = PATIENCE_S) -> None:
    """Return once it greets; each new reason why it doesn't is said.

    Raises:
        StackError: It did not in all that time.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    where = f"RabbitMQ at {host}:{port}"
    deadline = time.monotonic() + patience_s
    told = ""
    while reason := await asyncio.to_thread(_why_not, host, port, encrypted=parts.scheme == "amqps"):
        if reason != told:
            told = reason
            say(f"waiting for {where} ({reason})")
        if time.monotonic() + _PAUSE_S > deadline:
            raise StackError(
                f"{where} did not answer within {patience_s:g} s ({reason}): start it, or leave out --amqp-url to have "
                "a private one."
            )
        await asyncio.sleep(_PAUSE_S)


def _why_not(host: str, port: int, *, encrypted: bool) -> str:
    """Return why nobody speaks AMQP there; nothing if somebody does."""
    try:
        with socket.create_connection((host, port), timeout=_PROBE_S) as plain:
            if encrypted:  # The services check certificates; here it is only asked whether somebody is there.
                return ""
            plain.sendall(_GREETING)
            return "" if plain.recv(1) == _CONNECTION_START else "who answers there does not speak AMQP"
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return (error.strerror or str(error)).lower()
