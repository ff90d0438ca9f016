"""Metrics of the bus, made once for each registry."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class BusMetrics:
    """All metrics of one process's bus."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.published = Counter("qonduit_bus_published_total", "Messages sent, resends included.", registry=registry)
        self.confirmed = Counter("qonduit_bus_confirmed_total", "Messages the broker confirmed.", registry=registry)
        self.returned = Counter("qonduit_bus_returned_total", "Messages no queue would take.", registry=registry)
        self.refused = Counter("qonduit_bus_refused_total", "Messages the broker refused for now.", registry=registry)
        self.delivered = Counter("qonduit_bus_delivered_total", "Deliveries.", ["queue"], registry=registry)
        self.redelivered = Counter(
            "qonduit_bus_redelivered_total", "Deliveries that came again.", ["queue"], registry=registry
        )
        self.failed = Counter("qonduit_bus_handler_errors_total", "Handlers that raised.", ["queue"], registry=registry)
        self.dead = Counter(
            "qonduit_bus_dead_letters_total", "Messages sent to the dead letters.", ["queue"], registry=registry
        )
        self.connects = Counter("qonduit_bus_connects_total", "Connections made.", ["link"], registry=registry)
        self.reconnects = Counter(
            "qonduit_bus_reconnects_total", "Connections lost and made again.", ["link"], registry=registry
        )
        self.unconfirmed = Gauge("qonduit_bus_unconfirmed", "Messages that wait for their confirm.", registry=registry)
        self.blocked = Gauge("qonduit_bus_blocked", "1 while the broker blocks publishers.", registry=registry)
        self.publish_seconds = Histogram(
            "qonduit_bus_publish_seconds", "From publish to confirm.", buckets=_BUCKETS, registry=registry
        )


_made: WeakKeyDictionary[CollectorRegistry, BusMetrics] = WeakKeyDictionary()


def metrics_for(registry: CollectorRegistry | None) -> BusMetrics:
    """Return the metrics of a registry; without one they count for nobody."""
    if registry is None:
        return BusMetrics(CollectorRegistry())
    if registry not in _made:
        _made[registry] = BusMetrics(registry)
    return _made[registry]
