"""Leaving in good order: `python -m qonduit_worker drain SECONDS`, beside a worker that runs, with the same settings.

What ends a worker for good (a cluster that takes its pod away, say) calls this first: the worker takes nothing new, and
this returns once nothing runs there any more, or once the time is over. Then the worker may be told to stop.
"""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.request
from math import inf
from typing import TYPE_CHECKING, Final

from prometheus_client.parser import text_string_to_metric_families
from qonduit_service_kit.bus import Bus, UnroutableError
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import WorkerDrain, worker

from qonduit_worker.drain import DrainOrder
from qonduit_worker.settings import known_worker_id

if TYPE_CHECKING:
    from qonduit_worker.settings import WorkerSettings

_LOOK_S: Final = 1.0
_LOOKS: Final = 2
"""So often it must be seen idle: a lease that was taken just before the order shows in the metrics a moment later."""
_ANSWER_S: Final = 5.0
_LEASES: Final = "qonduit_worker_leases"
_EVERYWHERE: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - what a worker may be set to listen on.
_log = get_logger(__name__)


async def leave(settings: WorkerSettings, within_s: float) -> bool:
    """Have the worker take nothing new, wait until it runs nothing, and tell whether that came in time."""
    try:
        async with asyncio.timeout(within_s):
            await _order(settings)
            await _idle(settings)
    except UnroutableError:
        _log.warning("this worker has no inbox: it is long gone, or has never run")
    except TimeoutError:
        _log.warning("time is over; what still runs is run again elsewhere", seconds=within_s)
        return False
    _log.info("nothing runs here any more")
    return True


async def _order(settings: WorkerSettings) -> None:
    """Say it as the gateway would, to the worker's inbox: a worker has no other ear."""
    worker_id = known_worker_id(settings)
    bus = Bus(settings.amqp_url.get_secret_value(), app_id=f"worker-leaving/{worker_id}")
    await bus.start()
    try:
        await bus.publish(worker(worker_id), WorkerDrain(worker_id, draining=True, asked_at=time.time()))
    finally:
        await bus.stop()


async def _idle(settings: WorkerSettings) -> None:
    """Look once a second, as there is nothing that would tell."""
    seen = 0
    while seen < _LOOKS:
        await asyncio.sleep(_LOOK_S)
        try:
            leases = await asyncio.to_thread(_leases, settings)
        except ConnectionRefusedError:
            return  # The worker has ended by itself.
        seen = seen + 1 if _is_told(settings) and not leases else 0


def _is_told(settings: WorkerSettings) -> bool:
    """Whether the worker has written the order down; from then on it refuses grants, also those on their way."""
    return DrainOrder(settings.data_dir / "drain.json").draining


def _leases(settings: WorkerSettings) -> float:
    """Return how many leases the worker holds, as its metrics say; infinity while it is too busy to say.

    Raises:
        ConnectionRefusedError: There is no worker.
    """
    host = "127.0.0.1" if settings.metrics_host in _EVERYWHERE else settings.metrics_host
    try:
        with urllib.request.urlopen(f"http://{host}:{settings.metrics_port}/metrics", timeout=_ANSWER_S) as answer:
            text = answer.read().decode()
    except OSError as error:
        if isinstance(error, urllib.error.URLError) and isinstance(error.reason, ConnectionRefusedError):
            raise error.reason from None
        return inf
    families = text_string_to_metric_families(text)
    return sum(sample.value for family in families if family.name == _LEASES for sample in family.samples)
