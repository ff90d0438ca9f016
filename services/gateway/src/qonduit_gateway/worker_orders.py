"""What operators have workers do."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import grpc
from qonduit_service_kit.bus import UnroutableError
from qonduit_service_kit.errors import ApiError
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import WorkerDrain, worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit_service_kit.bus import Bus

    from qonduit_gateway.cluster_view import ClusterView

_TIMEOUT_S: Final = 10.0
_NAMED: Final = 20
_LONGEST_ID: Final = 100
_log = get_logger("workers")


class WorkerOrders:
    """Orders to one worker. Its inbox keeps them while the worker restarts; the worker keeps what it was told."""

    def __init__(self, bus: Bus, cluster: ClusterView, clock: Callable[[], float] = time.time) -> None:
        self._bus = bus
        self._cluster = cluster
        self._clock = clock

    async def drain(self, worker_id: str, *, draining: bool) -> None:
        """Have a worker take nothing new, or take leases again.

        Raises:
            ApiError: NOT_FOUND (WORKER_NOT_FOUND) when no worker has this name; UNAVAILABLE when RabbitMQ is away.
        """
        if not 0 < len(worker_id) <= _LONGEST_ID:
            raise self._not_found(worker_id)
        order = WorkerDrain(worker_id, draining, self._clock())
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._bus.publish(worker(worker_id), order)
        except UnroutableError:
            # A worker has an inbox from its start until it was gone for some minutes.
            raise self._not_found(worker_id) from None
        except TimeoutError:
            text = "RabbitMQ does not answer; the worker will hear of it if it comes back. Asking again does no harm."
            raise ApiError(grpc.StatusCode.UNAVAILABLE, "BUS_UNAVAILABLE", text) from None
        _log.info("worker told", worker=worker_id, draining=draining)

    def _not_found(self, worker_id: str) -> ApiError:
        known = [view.worker_id for view in self._cluster.workers]
        there_are = ", ".join(known[:_NAMED]) + (", ..." if len(known) > _NAMED else "")
        text = f"There is no worker {worker_id[:_LONGEST_ID]!r}. " + (
            f"There are {there_are}." if known else "No worker is connected, as far as the scheduler has said."
        )
        metadata = {"worker_id": worker_id[:_LONGEST_ID]}
        return ApiError(grpc.StatusCode.NOT_FOUND, "WORKER_NOT_FOUND", text, metadata=metadata)
