"""What is known of devices, shared by all sandboxes of a worker."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qonduit_worker.qpu_endpoint.broker_calls import BrokerGoneError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qonduit_worker.qpu_endpoint.broker_calls import Received

    Key = tuple[str, tuple[tuple[str, str], ...], str]

DESCRIPTION_TTL_S: Final = 300.0
STATUS_TTL_S: Final = 5.0
_OK: Final = 200
_ENTRY_BYTES: Final = 1024
_PAIR_BYTES: Final = 200


@dataclass(slots=True)
class _Entry:
    received: Received
    until: float


class DeviceCache:
    """Answers about devices: descriptions are kept for minutes, lists and statuses for seconds.

    Programs that ask for the same at the same time share one request.
    """

    def __init__(self, capacity_bytes: int = 64 * 1024**2) -> None:
        self._capacity_bytes = capacity_bytes
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._fetching: dict[Key, asyncio.Task[Received]] = {}
        self._size_bytes = 0

    async def get(self, key: Key, fetch: Callable[[], Awaitable[Received]]) -> Received:
        """Return an answer that is still fresh, or a new one; only successes are kept."""
        entry = self._entries.get(key)
        if entry is not None and entry.until > time.monotonic():
            self._entries.move_to_end(key)
            return entry.received
        while (task := self._fetching.get(key)) is not None:
            try:
                return await asyncio.shield(task)
            except BrokerGoneError:
                # The program that asked first is being stopped, and its request with it: that is not our end.
                continue
        task = asyncio.ensure_future(self._fetch(key, fetch))
        self._fetching[key] = task
        return await asyncio.shield(task)

    async def _fetch(self, key: Key, fetch: Callable[[], Awaitable[Received]]) -> Received:
        try:
            received = await fetch()
        finally:
            # Not by a callback: until that ran, who asks would be given the task that has failed, again and again.
            del self._fetching[key]
        if received.status == _OK:
            self._keep(key, received)
        return received

    def _keep(self, key: Key, received: Received) -> None:
        self._drop(key)
        described = key[0].endswith(("/configuration", "/properties"))
        ttl_s = DESCRIPTION_TTL_S if described else STATUS_TTL_S
        self._entries[key] = _Entry(received, time.monotonic() + ttl_s)
        self._size_bytes += _size_bytes(key, received)
        while self._size_bytes > self._capacity_bytes and len(self._entries) > 1:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: Key) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            self._size_bytes -= _size_bytes(key, entry.received)


def _size_bytes(key: Key, received: Received) -> int:
    """Return about what an entry takes; a program chooses the key, and it may be the larger part."""
    path, query, version = key
    return (
        _ENTRY_BYTES
        + len(received.body)
        + len(path)
        + len(version)
        + sum(_PAIR_BYTES + len(name) + len(value) for name, value in query)
    )
