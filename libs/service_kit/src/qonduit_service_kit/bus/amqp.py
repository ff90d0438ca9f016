"""The only module that knows pika: connections and channels as awaitables, in types of our own."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pika
import pika.exceptions
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.spec import BasicProperties

from qonduit_service_kit.bus.errors import BusError, LinkLostError, TopologyError

if TYPE_CHECKING:
    from collections.abc import Callable

# What happens to a connection is told by the link, in one line; pika would add its own tracebacks.
logging.getLogger("pika").setLevel(logging.CRITICAL)

HEARTBEAT_S = 20
CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 3.0
"""How long a close waits for the broker's answer."""
UNANSWERED_S = 60.0
"""A connection on which the broker leaves a request without an answer for so long is given up, heartbeats or not."""
_PRECONDITION_FAILED = 406
_ACCESS_REFUSED = 403
_PERSISTENT = 2


class Incoming(NamedTuple):
    """A message as the broker delivered it."""

    tag: int
    body: bytes
    type: str
    message_id: str
    app_id: str
    headers: dict[str, Any]
    redelivered: bool
    exchange: str
    key: str
    persistent: bool


class Outgoing:
    """A message on its way; `confirmed` ends when the broker took it or nobody waits any more."""

    __slots__ = ("body", "confirmed", "exchange", "key", "mandatory", "message_id", "properties", "returned", "since")

    def __init__(
        self,
        exchange: str,
        key: str,
        body: bytes,
        *,
        kind: str,
        message_id: str,
        app_id: str,
        persistent: bool,
        mandatory: bool,
        headers: dict[str, Any] | None,
        confirmed: asyncio.Future[None],
        since: float,
    ) -> None:
        self.exchange = exchange
        self.key = key
        self.body = body
        self.mandatory = mandatory
        self.message_id = message_id
        self.confirmed = confirmed
        self.since = since
        self.returned = False
        self.properties = BasicProperties(
            content_type="application/msgpack",
            type=kind,
            message_id=message_id,
            app_id=app_id,
            delivery_mode=_PERSISTENT if persistent else 1,
            headers=headers,
        )


class Channel:
    """One channel; every call raises LinkLostError once it is closed."""

    def __init__(self, inner: Any, give_up: Callable[[], LinkLostError]) -> None:
        self._inner = inner
        self._give_up = give_up
        self._pending: set[asyncio.Future[Any]] = set()
        self.closed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        inner.add_on_close_callback(self._on_close)

    def _on_close(self, _channel: object, reason: Exception) -> None:
        error = _translated(reason)
        for future in self._pending:
            if not future.done():
                future.set_exception(error)
        self._pending.clear()
        if not self.closed.done():
            self.closed.set_result(error)

    @property
    def is_open(self) -> bool:
        """Whether calls can succeed."""
        return bool(self._inner.is_open)

    async def _call(self, method: Callable[..., Any], **arguments: Any) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending.add(future)

        def done(frame: Any) -> None:
            if not future.done():
                future.set_result(frame)

        try:
            method(**arguments, callback=done)
            async with asyncio.timeout(UNANSWERED_S):
                return await future
        except TimeoutError:
            raise self._give_up() from None
        except pika.exceptions.AMQPError as error:
            raise _translated(error) from error
        finally:
            self._pending.discard(future)

    @staticmethod
    def _guarded(method: Callable[..., None], *arguments: Any, **named: Any) -> None:
        try:
            method(*arguments, **named)
        except pika.exceptions.AMQPError as error:
            raise _translated(error) from error

    async def declare_exchange(self, name: str, kind: str) -> None:
        """Declare a durable exchange."""
        await self._call(self._inner.exchange_declare, exchange=name, exchange_type=kind, durable=True)

    async def declare_queue(self, name: str, arguments: dict[str, Any]) -> None:
        """Declare a durable queue."""
        await self._call(self._inner.queue_declare, queue=name, durable=True, arguments=arguments)

    async def count(self, name: str) -> int:
        """Return how many messages are ready in a queue; TopologyError if there is no such queue."""
        frame = await self._call(self._inner.queue_declare, queue=name, passive=True)
        ready: int = frame.method.message_count
        return ready

    async def bind(self, queue: str, exchange: str, key: str) -> None:
        """Bind a queue."""
        await self._call(self._inner.queue_bind, queue=queue, exchange=exchange, routing_key=key)

    async def delete_queue(self, name: str) -> None:
        """Delete a queue with all that is in it."""
        await self._call(self._inner.queue_delete, queue=name)

    async def confirm(
        self, on_confirm: Callable[[int, bool, bool], None], on_return: Callable[[str, str, str], None]
    ) -> None:
        """Turn on confirms: on_confirm(tag, multiple, taken), on_return(message id, exchange, key)."""

        def confirmed(frame: Any) -> None:
            method = frame.method
            on_confirm(method.delivery_tag, method.multiple, isinstance(method, pika.spec.Basic.Ack))

        def returned(_channel: object, method: Any, properties: BasicProperties, _body: bytes) -> None:
            on_return(properties.message_id or "", method.exchange, method.routing_key)

        self._inner.add_on_return_callback(returned)
        await self._call(self._inner.confirm_delivery, ack_nack_callback=confirmed)

    def publish(self, message: Outgoing) -> None:
        """Send without waiting."""
        self._guarded(
            self._inner.basic_publish,
            message.exchange,
            message.key,
            message.body,
            message.properties,
            message.mandatory,
        )

    async def prefetch(self, count: int) -> None:
        """Limit unacknowledged deliveries of consumers started afterwards."""
        await self._call(self._inner.basic_qos, prefetch_count=count)

    def on_cancelled(self, told: Callable[[], None]) -> None:
        """Call `told` when the broker ends a consumer."""
        self._inner.add_on_cancel_callback(lambda _frame: told())

    async def consume(self, queue: str, on_delivery: Callable[[Incoming], None]) -> str:
        """Start a consumer and return its tag."""

        def delivered(_channel: object, method: Any, properties: BasicProperties, body: bytes) -> None:
            on_delivery(
                Incoming(
                    method.delivery_tag,
                    body,
                    properties.type or "",
                    properties.message_id or "",
                    properties.app_id or "",
                    properties.headers or {},
                    method.redelivered,
                    method.exchange,
                    method.routing_key,
                    properties.delivery_mode == _PERSISTENT,
                )
            )

        frame = await self._call(self._inner.basic_consume, queue=queue, on_message_callback=delivered)
        tag: str = frame.method.consumer_tag
        return tag

    async def cancel(self, consumer_tag: str) -> None:
        """End a consumer; what it has unacknowledged stays so until the channel is closed."""
        await self._call(self._inner.basic_cancel, consumer_tag=consumer_tag)

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge; does nothing on a closed channel, where the broker has taken the delivery back."""
        if self._inner.is_open:
            self._guarded(self._inner.basic_ack, tag, multiple)

    def requeue(self, tag: int) -> None:
        """Give a delivery back; does nothing on a closed channel."""
        if self._inner.is_open:
            self._guarded(self._inner.basic_nack, tag, multiple=False, requeue=True)

    async def close(self) -> None:
        """Close; unacknowledged deliveries go back to their queue. Safe to call twice."""
        if self._inner.is_open:
            self._inner.close()
        if not self._inner.is_closed:
            await asyncio.wait([self.closed], timeout=ANSWER_TIMEOUT_S)


class _OneWrite(AsyncioConnection):  # type: ignore[misc,unused-ignore]
    """Writes all frames of one turn of the event loop at once: pika would make three system calls a message."""

    _waiting: list[bytes] | None = None

    def _output_marshaled_frames(self, marshaled_frames: list[bytes]) -> None:
        if self._waiting is None:
            self._waiting = []
            asyncio.get_running_loop().call_soon(self._write_waiting)
        self._waiting += marshaled_frames

    def _write_waiting(self) -> None:
        frames, self._waiting = self._waiting, None
        if frames and not self.is_closed:
            super()._output_marshaled_frames([b"".join(frames)])


class Connection:
    """One connection, open until `closed` has a reason."""

    def __init__(self, inner: AsyncioConnection, closed: asyncio.Future[Exception]) -> None:
        self._inner = inner
        self.closed = closed

    @classmethod
    async def open(cls, url: str, *, name: str) -> Self:
        """Connect; LinkLostError if that fails."""
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()
        closed: asyncio.Future[Exception] = loop.create_future()

        def on_open(_connection: object) -> None:
            if not opened.done():
                opened.set_result(None)

        def on_end(_connection: object, reason: Exception) -> None:
            error = _translated(reason)
            if not opened.done():
                opened.set_exception(error)
            if not closed.done():
                closed.set_result(error)

        inner = _OneWrite(
            _parameters(url, name), on_open_callback=on_open, on_open_error_callback=on_end, on_close_callback=on_end
        )
        try:
            await opened
        except asyncio.CancelledError:
            _close_quietly(inner)
            raise
        return cls(inner, closed)

    async def channel(self) -> Channel:
        """Open a channel."""
        opened = asyncio.Event()
        try:
            channel = Channel(self._inner.channel(on_open_callback=lambda _channel: opened.set()), self._give_up)
        except pika.exceptions.AMQPError as error:
            raise _translated(error) from error
        waiting = asyncio.ensure_future(opened.wait())
        either: list[asyncio.Future[Any]] = [waiting, channel.closed]
        await asyncio.wait(either, timeout=UNANSWERED_S, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if channel.closed.done():
            raise channel.closed.result()
        if not opened.is_set():
            raise self._give_up()
        return channel

    def _give_up(self) -> LinkLostError:
        """Take the connection for lost: what waits for it begins again on the next one."""
        error = LinkLostError(f"RabbitMQ left a request without an answer for {UNANSWERED_S:g} s")
        if not self.closed.done():
            self.closed.set_result(error)
        return error

    def on_blocked(self, told: Callable[[bool], None]) -> None:
        """Call `told` with True when the broker blocks publishers, with False when it no longer does."""
        self._inner.add_on_connection_blocked_callback(lambda _connection, _frame: told(True))  # noqa: FBT003
        self._inner.add_on_connection_unblocked_callback(lambda _connection, _frame: told(False))  # noqa: FBT003

    async def close(self) -> None:
        """Close, waiting a few seconds at most; safe to call twice."""
        _close_quietly(self._inner)
        if not self.closed.done():
            await asyncio.wait([self.closed], timeout=ANSWER_TIMEOUT_S)


def _close_quietly(inner: AsyncioConnection) -> None:
    if inner.is_open or inner.connection_state not in (inner.CONNECTION_CLOSED, inner.CONNECTION_CLOSING):
        try:
            inner.close()
        except pika.exceptions.AMQPError:
            return


def _parameters(url: str, name: str) -> pika.URLParameters:
    parameters = pika.URLParameters(url)
    parameters.heartbeat = HEARTBEAT_S
    parameters.connection_attempts = 1
    parameters.socket_timeout = CONNECT_TIMEOUT_S
    parameters.stack_timeout = CONNECT_TIMEOUT_S
    parameters.blocked_connection_timeout = None
    parameters.client_properties = {"connection_name": name}
    return parameters


def _translated(reason: BaseException) -> BusError:
    """Turn pika's errors into ours; their text never holds credentials."""
    if isinstance(reason, pika.exceptions.ChannelClosedByBroker):
        return TopologyError(f"RabbitMQ says {reason.reply_code}: {reason.reply_text}")
    if isinstance(reason, pika.exceptions.ShortStringTooLong):
        return BusError(f"a name on the bus is longer than 255 bytes: {reason}")
    cause = _innermost(reason)
    if isinstance(cause, OSError) and cause.strerror:
        return LinkLostError(cause.strerror.lower())
    text = str(cause) or repr(cause)
    return LinkLostError(f"{type(cause).__name__}: {text}")


def _innermost(reason: BaseException) -> BaseException:
    """Return what is inside of the wrappers, of which pika puts several around each failed connect."""
    while True:
        inner: object = getattr(reason, "exception", None)
        if several := getattr(reason, "exceptions", None):
            inner = several[-1]
        elif isinstance(reason, pika.exceptions.AMQPConnectionError) and reason.args:
            inner = reason.args[0]
        if not isinstance(inner, Exception) or inner is reason:
            return reason
        reason = inner
