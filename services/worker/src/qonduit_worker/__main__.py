"""`python -m qonduit_worker`: the worker of one machine; `... drain SECONDS` takes one that runs out of service."""

from __future__ import annotations

import asyncio
import shutil
import sys
from functools import partial
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.bus import Bus
from qonduit_service_kit.lifecycle import Periodic, main
from qonduit_service_kit.logs import configure, get_logger
from qonduit_service_kit.metrics import REGISTRY
from qonduit_service_kit.rpc import channel

from qonduit_worker import metrics
from qonduit_worker.agent import Agent
from qonduit_worker.blob_exchange import BlobExchange
from qonduit_worker.blobs import BlobCache
from qonduit_worker.dependencies import Builder, LayerStore
from qonduit_worker.leaving import leave
from qonduit_worker.qpu_endpoint import DeviceCache
from qonduit_worker.refused_files import RefusedFiles
from qonduit_worker.sandbox import CgroupTree, SandboxConfig, probe, sweep
from qonduit_worker.settings import WorkerSettings, known_worker_id, resolver_environment
from qonduit_worker.workshop import Workshop
from qonduit_worker.zygotes import ZygotePool

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import grpc
    from qonduit_service_kit.lifecycle import Part

    from qonduit_worker.sandbox import SandboxReport, Tier

_SWEEP_EVERY_S: Final = 600.0
_log = get_logger(__name__)


class SandboxTooWeakError(RuntimeError):
    """This machine cannot confine programs as well as the settings demand."""


class StorageChannel:
    """The connection to storage, as a part."""

    def __init__(self, address: str, *, ca: Path | None = None) -> None:
        self.channel: grpc.aio.Channel = channel(address, ca=ca)

    async def start(self) -> None:
        """Do nothing: it connects at its first use, and again whenever storage was away."""

    async def stop(self) -> None:
        """Close it."""
        await self.channel.close()


def chosen_tier(report: SandboxReport, settings: WorkerSettings) -> Tier:
    """Return the tier to run programs in; with a minimum of A nothing at all may be missing, control groups included.

    Raises:
        SandboxTooWeakError: It is weaker than the settings allow.
    """
    whole = settings.minimum_tier != "A" or not report.missing
    if report.tier <= settings.minimum_tier and whole:
        return report.tier
    missing = " ".join(report.missing)
    if not settings.allow_weaker_sandbox:
        raise SandboxTooWeakError(
            f"this machine gives less than a whole sandbox of tier {settings.minimum_tier} (it is tier {report.tier}). "
            f"{missing} Or set QONDUIT_WORKER_ALLOW_WEAKER_SANDBOX=true to run without."
        )
    _log.warning(f"Programs run in a weaker sandbox (tier {report.tier}), as the settings allow. {missing}")
    return report.tier


async def build(settings: WorkerSettings) -> Sequence[Part]:
    """Look at the machine, sweep what an earlier life left, and wire the parts."""
    state = settings.data_dir.absolute()
    state.mkdir(parents=True, exist_ok=True)
    worker_id = known_worker_id(settings)
    report, _ = await asyncio.gather(asyncio.to_thread(probe), asyncio.to_thread(_sweep, settings))
    tier = chosen_tier(report, settings)
    metrics.SANDBOX_TIER.labels(tier).set(1)
    _log.info("sandbox", tier=tier, cgroup=report.cgroup, missing=list(report.missing), worker=worker_id)
    cgroups = CgroupTree(state)
    cgroups.prepare()
    zygotes = ZygotePool(SandboxConfig(state, tier), cgroups, preload=settings.preload, warm=settings.warm)
    bus = Bus(settings.amqp_url.get_secret_value(), app_id=f"worker/{worker_id}", registry=REGISTRY)
    storage = StorageChannel(settings.storage_address, ca=settings.storage_ca)
    cache = BlobCache(state / "blobs", capacity_bytes=settings.cache_bytes)
    builder = Builder(settings.build_rules, cgroups, state, resolver_environment())
    layers = LayerStore(state / "environments", builder, capacity_bytes=settings.dependency_cache_bytes)
    refused = RefusedFiles(state / "refused", kept_s=settings.refused_kept_s, most_bytes=settings.refused_bytes)
    workshop = Workshop(
        worker_id=worker_id,
        settings=settings,
        bus=bus,
        channel=storage.channel,
        cache=cache,
        zygotes=zygotes,
        devices=DeviceCache(),
        layers=layers,
        rooms=state / "sandboxes",
        exchange=BlobExchange(bus, cache, worker_id),
        refused=refused,
    )
    sweeping = _sweeping(cache, unused_s=settings.cache_kept_s)
    return [storage, bus, layers, zygotes, refused, sweeping, Agent(workshop, sandbox_tier=tier)]


def _sweeping(cache: BlobCache, *, unused_s: float) -> Periodic:
    return Periodic(min(_SWEEP_EVERY_S, unused_s), partial(cache.remove_unused, unused_s), name="sweep-blobs")


def _sweep(settings: WorkerSettings) -> None:
    """End and remove what an earlier life of this worker left: processes, control groups, folders."""
    state = settings.data_dir.absolute()
    swept = sweep(state)
    shutil.rmtree(state / "sandboxes", ignore_errors=True)
    if swept:
        _log.warning("swept what an earlier worker left", control_groups=swept)


def _drain(seconds: str) -> int:
    """Exit code 0 once nothing runs any more, 1 if something still does."""
    settings = WorkerSettings()  # type: ignore[call-arg]  # Every field has a default.
    configure("worker", settings.log_format, settings.log_level)
    return 0 if asyncio.run(leave(settings, float(seconds))) else 1


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            main("worker", WorkerSettings, build)
        case ["drain", seconds] if seconds.isdecimal():
            sys.exit(_drain(seconds))
        case _:
            sys.exit("usage: python -m qonduit_worker [drain SECONDS]")
