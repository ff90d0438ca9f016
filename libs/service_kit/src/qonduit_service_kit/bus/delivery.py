"""What handlers are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from qonduit_service_kit.bus.amqp import Incoming


class Settler(Protocol):
    """What a delivery needs from its subscription."""

    def ack(self, incoming: Incoming) -> None: ...  # noqa: D102
    def requeue(self, incoming: Incoming) -> None: ...  # noqa: D102
    async def park(self, incoming: Incoming, reason: str) -> None: ...  # noqa: D102


class _Settled:
    """Settling a delivery once; later calls do nothing."""

    __slots__ = ("_incoming", "_settler", "settled")

    def __init__(self, incoming: Incoming, settler: Settler) -> None:
        self._incoming = incoming
        self._settler = settler
        self.settled = False

    async def ack(self) -> None:
        """Take the message off its queue."""
        if not self.settled:
            self.settled = True
            self._settler.ack(self._incoming)

    async def reject(self, reason: str) -> None:
        """Send the message to the dead letters."""
        if not self.settled:
            self.settled = True
            await self._settler.park(self._incoming, reason)

    async def requeue(self) -> None:
        """Give the message back to its queue, for any consumer."""
        if not self.settled:
            self.settled = True
            self._settler.requeue(self._incoming)


class Delivery(_Settled):
    """A message and the means to settle it; a handler's normal return acknowledges it."""

    __slots__ = ("message", "message_id", "redelivered", "sender")

    def __init__(self, message: object, incoming: Incoming, settler: Settler, *, again: bool) -> None:
        super().__init__(incoming, settler)
        self.message = message
        self.message_id = incoming.message_id
        self.redelivered = again
        """Whether this message may have been seen before; False promises that it was not."""
        self.sender = incoming.app_id


@dataclass(frozen=True, slots=True)
class Raw:
    """An undecoded message, as the dead letters keep it."""

    body: bytes
    type_name: str
    message_id: str
    sender: str
    reason: str
    """Why it is here."""
    source_queue: str
    exchange: str
    key: str
    """Where it was first sent to, for a replay."""
    headers: dict[str, Any] = field(default_factory=dict)


class RawDelivery(_Settled):
    """An undecoded message and the means to settle it."""

    __slots__ = ("redelivered", "raw")

    def __init__(self, raw: Raw, incoming: Incoming, settler: Settler, *, again: bool) -> None:
        super().__init__(incoming, settler)
        self.raw = raw
        self.redelivered = again

    @property
    def body(self) -> bytes:
        """The bytes as they came."""
        return self.raw.body

    @property
    def type_name(self) -> str:
        """The message type, `name/version`."""
        return self.raw.type_name

    @property
    def message_id(self) -> str:
        """The id its sender gave it."""
        return self.raw.message_id

    @property
    def headers(self) -> dict[str, Any]:
        """AMQP headers."""
        return self.raw.headers

    @property
    def reason(self) -> str:
        """Why it is here."""
        return self.raw.reason

    @property
    def source_queue(self) -> str:
        """The queue it was taken from."""
        return self.raw.source_queue
