"""Devices: /backends and what is below it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from qonduit_service_kit.messages import INLINE_LIMIT_BYTES

from qonduit_qpu_broker.api.answer import Answer, of_json
from qonduit_qpu_broker.api.documents import devices_document, status_document
from qonduit_qpu_broker.problems import NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit_service_kit.messages import QpuRequest

    from qonduit_qpu_broker.payloads import Payloads
    from qonduit_qpu_broker.upstream import Description, Device, Upstream

_STORED_FOR_S = 600.0
_OF_WHICH = frozenset({"updated_before", "calibration_id"})


def wants_mocks(request: QpuRequest) -> bool:
    """Whether a list is to hold mock devices, or jobs on them."""
    return dict(request.query).get("include_mocks", "").lower() == "true"


class BackendsApi:
    """Answers about devices."""

    def __init__(self, upstream: Upstream, payloads: Payloads, queue_length: Callable[[str], int]) -> None:
        self._upstream = upstream
        self._payloads = payloads
        self._queue_length = queue_length
        self._stored: dict[tuple[str, str], tuple[str, float]] = {}

    def device(self, name: str) -> Device:
        """Return a device; NotFound with what there is, or Unavailable while a provider does not list its own."""
        devices = {device.name: device for device in self._upstream.devices()}
        try:
            return devices[name]
        except KeyError:
            ill = [one.text for one in self._upstream.conditions() if one.state in {"failing", "refused"}]
            if ill:
                raise Unavailable(f"There is no backend {name!r} now, and not all can be listed: {ill[0]}") from None
            known = ", ".join(sorted(name for name, device in devices.items() if not device.mock))
            raise NotFound(f"There is no backend {name!r}.", solution=f"Use one of: {known}.") from None

    async def list(self, request: QpuRequest) -> Answer:
        """Answer GET /backends; mock devices are in the list for who asks for them."""
        self._upstream.expect()
        mocks = wants_mocks(request)
        listed = [device for device in self._upstream.devices() if mocks or not device.mock]
        devices = [(device, self._queue_length(device.name)) for device in listed]
        return of_json(devices_document(devices, request.api_version))

    async def status(self, _request: QpuRequest, name: str) -> Answer:
        """Answer GET /backends/{name}/status."""
        device = self.device(name)
        if not device.version:
            # A provider's list does not hold it.
            version = json.loads(await self._upstream.describe("configuration", name)).get("backend_version", "")
            device = replace(device, version=str(version))
        return of_json(status_document(device, self._queue_length(name)))

    async def configuration(self, request: QpuRequest, name: str) -> Answer:
        """Answer GET /backends/{name}/configuration."""
        self._upstream.expect()
        return await self._described("configuration", name, request)

    async def properties(self, request: QpuRequest, name: str) -> Answer:
        """Answer GET /backends/{name}/properties."""
        return await self._described("properties", name, request)

    async def _described(self, kind: Description, name: str, request: QpuRequest) -> Answer:
        """Answer with a description, large ones by a digest; now and then it is made sure that they are in storage."""
        self.device(name)
        query = tuple((field, value) for field, value in request.query if field in _OF_WHICH)
        digest, stored_at = self._stored.get((kind, name), ("", 0.0))
        if digest and not query and time.monotonic() - stored_at < _STORED_FOR_S:
            return Answer(digest=digest)
        description = await self._upstream.describe(kind, name, query)
        if len(description) <= INLINE_LIMIT_BYTES:
            return Answer(body=description)
        digest = await self._payloads.put(description)
        if not query:
            self._stored[kind, name] = (digest, time.monotonic())
        return Answer(digest=digest)
