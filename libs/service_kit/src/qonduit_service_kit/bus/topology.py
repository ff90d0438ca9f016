"""Queues, exchanges and bindings, as docs/architecture/bus.md draws them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from qonduit_service_kit.messages import (
    ALL_WORKERS,
    GATEWAY,
    QPU_BROKER,
    SCHEDULER,
    TASKS_EXCHANGE,
    WORKERS_EXCHANGE,
    Address,
    worker,
)

DELIVERY_LIMIT = 10
"""Deliveries that end with a lost consumer before a message is taken for poison."""
DEAD_LETTER_EXCHANGE = "qonduit.dead-letters"
WORKER_INBOX_EXPIRES_S = 600.0
TASKS_EXPIRE_S = 1800.0
_FANOUT = frozenset({ALL_WORKERS.exchange, DEAD_LETTER_EXCHANGE})


class QueueKind(Enum):
    """How RabbitMQ keeps a queue."""

    QUORUM = "quorum"
    """On disk before it is confirmed; survives any restart."""
    CLASSIC = "classic"
    """Fast; transient messages are gone after a restart of the broker."""


QUORUM = QueueKind.QUORUM
CLASSIC = QueueKind.CLASSIC


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue and what is bound to it."""

    name: str
    address: Address
    kind: QueueKind = QUORUM
    single_active: bool = False
    """One consumer at a time gets messages; the next takes over when it is gone."""
    expires_s: float | None = None
    """Deleted by the broker after so long without consumers and declarations."""
    also_bound: tuple[Address, ...] = ()
    kept_by_sender: bool = False
    """Its sender makes it again when it is gone; a consumer whose queue was deleted only looks whether it is back."""

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Everything that is bound to this queue."""
        return (self.address, *self.also_bound)

    @property
    def label(self) -> str:
        """What metrics call it: one name for all queues of a kind, of which there is one a job or a worker."""
        return self.address.exchange.removeprefix("qonduit.")

    def arguments(self) -> dict[str, Any]:
        """Arguments for the broker, all honoured by RabbitMQ 3.10 to 4.x."""
        arguments: dict[str, Any] = {"x-queue-type": self.kind.value}
        if self.kind is QUORUM:
            arguments |= _QUORUM_ARGUMENTS if self.address.exchange != DEAD_LETTER_EXCHANGE else _PARKING_ARGUMENTS
        if self.single_active:
            arguments["x-single-active-consumer"] = True
        if self.expires_s is not None:
            arguments["x-expires"] = int(self.expires_s * 1000)
        return arguments


_QUORUM_ARGUMENTS: dict[str, Any] = {
    "x-delivery-limit": DELIVERY_LIMIT,
    "x-dead-letter-exchange": DEAD_LETTER_EXCHANGE,
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}
# Dead letters have nowhere further to go, and RabbitMQ 4 drops them at its default limit of 20.
_PARKING_ARGUMENTS: dict[str, Any] = {"x-delivery-limit": 1_000_000}


def exchange_type(exchange: str) -> str:
    """Return the type an exchange is declared with."""
    return "fanout" if exchange in _FANOUT else "direct"


GATEWAY_INBOX = Queue("gateway.inbox", GATEWAY)
SCHEDULER_INBOX = Queue("scheduler.inbox", SCHEDULER, single_active=True)
QPU_INBOX = Queue("qpu.inbox", QPU_BROKER)
DEAD_LETTERS = Queue("dead-letters", Address(DEAD_LETTER_EXCHANGE, ""))
WELL_KNOWN = (GATEWAY_INBOX, SCHEDULER_INBOX, QPU_INBOX, DEAD_LETTERS)
"""Declared by every service on every connect, so that services may start in any order."""


EXCHANGES: tuple[str, ...] = (
    *(queue.address.exchange for queue in WELL_KNOWN),
    WORKERS_EXCHANGE,
    ALL_WORKERS.exchange,
    TASKS_EXCHANGE,
)
"""Declared on every connect, as publishing to an exchange that isn't there closes the channel."""


def worker_inbox(worker_id: str) -> Queue:
    """Return the inbox of one worker, which is also bound to what all workers get."""
    return Queue(
        f"worker.{worker_id}.inbox", worker(worker_id), expires_s=WORKER_INBOX_EXPIRES_S, also_bound=(ALL_WORKERS,)
    )


def tasks_queue(address: Address) -> Queue:
    """Return the queue behind an address made by `messages.task_queue`."""
    if address.exchange != TASKS_EXCHANGE:
        raise ValueError(f"{address} is no address of a task queue")
    return Queue(address.key, address, CLASSIC, expires_s=TASKS_EXPIRE_S, kept_by_sender=True)
