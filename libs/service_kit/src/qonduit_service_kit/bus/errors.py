"""Errors of the bus.

BusError
├── UnroutableError       no queue would take the message; trying again helps only once there is one
├── MessageTooLargeError  the message must travel through storage instead
├── BusClosedError        the bus was stopped
├── LinkLostError         the connection broke; the bus itself tries again
└── TopologyError         the broker refused a declaration; a person must act
RejectMessage             raised by handlers, not by the bus
"""

from __future__ import annotations


class BusError(Exception):
    """The bus could not do what was asked."""


class UnroutableError(BusError):
    """No queue is bound for this message."""


class MessageTooLargeError(BusError):
    """The message is larger than the bus carries."""


class BusClosedError(BusError):
    """The bus is stopped."""


class LinkLostError(BusError):
    """The connection to RabbitMQ is gone."""


class TopologyError(BusError):
    """RabbitMQ refused an exchange, a queue or a binding."""


class RejectMessage(Exception):  # noqa: N818 - it is an instruction to the bus more than an error.
    """Raise in a handler to send the message to the dead letters, with this text as the reason."""
