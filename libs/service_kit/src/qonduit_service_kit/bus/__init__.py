"""The bus: typed messages over RabbitMQ, at least once, with reconnects that callers don't see."""

from qonduit_service_kit.bus.bus import Bus
from qonduit_service_kit.bus.consumer import Subscription
from qonduit_service_kit.bus.delivery import Delivery, RawDelivery, RawMessage
from qonduit_service_kit.bus.errors import (
    BusClosedError,
    BusError,
    MessageTooLargeError,
    RejectMessage,
    TopologyError,
    UnroutableError,
)
from qonduit_service_kit.bus.topology import (
    CLASSIC,
    DEAD_LETTERS,
    GATEWAY_INBOX,
    QPU_INBOX,
    QUORUM,
    SCHEDULER_INBOX,
    WELL_KNOWN,
    Queue,
    QueueKind,
    tasks_queue,
    worker_inbox,
)

__all__ = [
    "CLASSIC",
    "DEAD_LETTERS",
    "GATEWAY_INBOX",
    "QPU_INBOX",
    "QUORUM",
    "SCHEDULER_INBOX",
    "WELL_KNOWN",
    "Bus",
    "BusClosedError",
    "BusError",
    "Delivery",
    "MessageTooLargeError",
    "Queue",
    "QueueKind",
    "RawDelivery",
    "RawMessage",
    "RejectMessage",
    "Subscription",
    "TopologyError",
    "UnroutableError",
    "tasks_queue",
    "worker_inbox",
]
