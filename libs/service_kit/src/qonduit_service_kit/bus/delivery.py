"""What handlers are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from qonduit_service_kit.bus.amqp import Incoming

HEADER_REASON = "qonduit-reason"
HEADER_QUEUE = "qonduit-source-queue"
HEADER_EXCHANGE = "qonduit-exchange"
HEADER_KEY = "qonduit-key"
_REASON_LIMIT = 4096


class Settler(Protocol):
    """What a delivery needs from its channel."""

    def ack(self, incoming: Incoming) -> None:
        """Take the message off its queue."""

    def requeue(self, incoming: Incoming) -> None:
        """Give the message back."""

    async def park(self, incoming: Incoming, reason: str) -> None:
        """Send the message to the dead letters."""


class _Settled:
    """Settling a delivery once; later calls do nothing."""

    __slots__ = ("_incoming", "_settler", "redelivered", "settled")

    def __init__(self, incoming: Incoming, settler: Settler, *, again: bool) -> None:
        self._incoming = incoming
        self._settler = settler
        self.settled = False
        self.redelivered = again
        """Whether this message may have been here before; False promises nothing about its sender's repeats."""

    @property
    def message_id(self) -> str:
        """The id its sender gave it: the same each time the same message is sent."""
        return self._incoming.message_id

    @property
    def sender(self) -> str:
        """The app_id of the bus that sent it."""
        return self._incoming.app_id

    async def ack(self) -> None:
        """Take the message off its queue."""
        if not self.settled:
            self.settled = True
            self._settler.ack(self._incoming)

    async def reject(self, reason: str) -> None:
        """Send the message to the dead letters, with a reason."""
        if not self.settled:
            await self._settler.park(self._incoming, reason)
            self.settled = True

    async def requeue(self) -> None:
        """Give the message back to its queue, for any consumer; counts towards its delivery limit."""
        if not self.settled:
            self.settled = True
            self._settler.requeue(self._incoming)


class Delivery(_Settled):
    """A message and the means to settle it; a handler's normal return acknowledges it."""

    __slots__ = ("message",)

    def __init__(self, message: Any, incoming: Incoming, settler: Settler, *, again: bool) -> None:
        super().__init__(incoming, settler, again=again)
        self.message = message
        """One of the registered message types."""


@dataclass(frozen=True, slots=True)
class RawMessage:
    """An undecoded message, as the dead letters keep it."""

    body: bytes
    type_name: str
    """`name/version`, as sent."""
    message_id: str
    sender: str
    reason: str
    """Why it is among the dead letters; '' elsewhere."""
    source_queue: str
    """The queue it was taken from; '' elsewhere."""
    exchange: str
    key: str
    """Where it was first sent to, for a replay."""
    headers: dict[str, Any] = field(default_factory=dict)


class RawDelivery(_Settled):
    """An undecoded message and the means to settle it."""

    __slots__ = ("raw",)

    def __init__(self, raw: RawMessage, incoming: Incoming, settler: Settler, *, again: bool) -> None:
        super().__init__(incoming, settler, again=again)
        self.raw = raw

    @property
    def body(self) -> bytes:
        """The bytes as they came."""
        return self.raw.body

    @property
    def type_name(self) -> str:
        """The message type, `name/version`."""
        return self.raw.type_name

    @property
    def headers(self) -> dict[str, Any]:
        """AMQP headers."""
        return self.raw.headers

    @property
    def reason(self) -> str:
        """Why it is among the dead letters."""
        return self.raw.reason

    @property
    def source_queue(self) -> str:
        """The queue it was taken from."""
        return self.raw.source_queue


def parking_headers(incoming: Incoming, queue: str, reason: str) -> dict[str, Any]:
    """Return the headers a message carries among the dead letters."""
    return incoming.headers | {
        HEADER_REASON: reason[:_REASON_LIMIT],
        HEADER_QUEUE: queue,
        HEADER_EXCHANGE: incoming.exchange,
        HEADER_KEY: incoming.key,
    }


def raw_message(incoming: Incoming) -> RawMessage:
    """Return a message undecoded; what killed it is told by our headers, or else by the broker's."""
    headers = incoming.headers
    death = (headers.get("x-death") or [{}])[0]
    return RawMessage(
        body=incoming.body,
        type_name=incoming.type,
        message_id=incoming.message_id,
        sender=incoming.app_id,
        reason=str(headers.get(HEADER_REASON) or death.get("reason", "")),
        source_queue=str(headers.get(HEADER_QUEUE) or death.get("queue", "")),
        exchange=str(headers.get(HEADER_EXCHANGE) or death.get("exchange") or incoming.exchange),
        key=str(headers.get(HEADER_KEY) or (death.get("routing-keys") or [incoming.key])[0]),
        headers=headers,
    )
