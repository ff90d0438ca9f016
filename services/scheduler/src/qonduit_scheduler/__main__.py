"""`python -m qonduit_scheduler`: settings, wiring, serve."""

from __future__ import annotations

import gc
import secrets
import socket
from typing import TYPE_CHECKING

from qonduit_service_kit.bus import Bus
from qonduit_service_kit.lifecycle import Background, main
from qonduit_service_kit.metrics import REGISTRY, MetricsServer

from qonduit_scheduler.leadership import Leadership
from qonduit_scheduler.metrics import SchedulerMetrics
from qonduit_scheduler.service import SchedulerService
from qonduit_scheduler.settings import SchedulerSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qonduit_service_kit.lifecycle import Part


async def build(settings: SchedulerSettings) -> Sequence[Part]:
    """Return the parts of the service in the order they start."""
    # The picture of a large cluster is millions of objects without cycles: the default pace of the collector
    # goes through all of them again and again, for 0.4 s each time.
    gc.set_threshold(50_000, 50, 1000)
    instance = f"{socket.gethostname()}-{secrets.token_hex(4)}"
    bus = Bus(settings.amqp_url.get_secret_value(), app_id=f"scheduler/{instance}", registry=REGISTRY)
    leadership = Leadership(instance, settings.leadership(), settings.policy())
    service = SchedulerService(bus, leadership, SchedulerMetrics(), tick_s=settings.tick_s)
    metrics = MetricsServer(settings.metrics_host, settings.metrics_port)
    ticks = Background(service.run, name="scheduler ticks")
    return [metrics, bus, service, ticks]


if __name__ == "__main__":
    main("scheduler", SchedulerSettings, build)
