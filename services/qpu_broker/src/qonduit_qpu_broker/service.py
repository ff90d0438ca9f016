"""Wires the broker together."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from qonduit_service_kit.bus import Bus
from qonduit_service_kit.lifecycle import Background, Periodic
from qonduit_service_kit.metrics import REGISTRY
from qonduit_service_kit.tickets import TicketSigner, load_or_create_key

from qonduit_qpu_broker.api.backends import BackendsApi
from qonduit_qpu_broker.api.jobs import JobsApi
from qonduit_qpu_broker.api.operator import OperatorApi
from qonduit_qpu_broker.api.router import Router
from qonduit_qpu_broker.api.sessions import SessionsApi
from qonduit_qpu_broker.charging import ChargeBook
from qonduit_qpu_broker.dispatcher import Dispatcher
from qonduit_qpu_broker.inbox import Inbox
from qonduit_qpu_broker.ledger.thread import LedgerThread
from qonduit_qpu_broker.local.catalog import DeviceCatalog
from qonduit_qpu_broker.local.devices import LocalDevices
from qonduit_qpu_broker.local.launching import Limits
from qonduit_qpu_broker.local.noise_files import NoiseFiles
from qonduit_qpu_broker.local.noise_making import NoiseMaker
from qonduit_qpu_broker.local.process import SimulatorProcess
from qonduit_qpu_broker.metrics import BrokerMetrics
from qonduit_qpu_broker.observing import LOOK_S, Observer
from qonduit_qpu_broker.outbox import Outbox
from qonduit_qpu_broker.payloads import Payloads
from qonduit_qpu_broker.secrecy import keep_secrets
from qonduit_qpu_broker.upstreams import Upstreams

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qonduit_service_kit.lifecycle import Part

    from qonduit_qpu_broker.settings import QpuBrokerSettings
    from qonduit_qpu_broker.upstream import Upstream


SIMULATED = "simulated_"
"""Begins the names of simulated devices where others are IBM's: none may be taken for the other."""


async def build(settings: QpuBrokerSettings) -> Sequence[Part]:
    """Return the parts, in the order in which they start."""
    key_file = settings.internal_key_file or settings.data_dir / "internal.key"
    ledger = LedgerThread(settings.data_dir / "ledger.sqlite3")
    payloads = Payloads(settings.storage_address, TicketSigner(load_or_create_key(key_file)), ca=settings.storage_ca)
    bus = Bus(settings.amqp_url.get_secret_value(), app_id="qpu_broker", registry=REGISTRY)
    metrics = BrokerMetrics()
    outbox = Outbox(ledger, bus)
    book = ChargeBook(ledger, outbox, metrics)
    places = asyncio.Event()
    upstream = offered(settings, ledger, book, places.set)
    dispatcher = Dispatcher(
        ledger,
        upstream,
        payloads=payloads,
        outbox=outbox,
        book=book,
        metrics=metrics,
        wake=places,
        queue_delay_s=settings.queue_delay_s,
        max_body_bytes=settings.max_body_bytes,
    )
    backends = BackendsApi(upstream, payloads, dispatcher.queue_length)
    jobs = JobsApi(
        ledger=ledger,
        payloads=payloads,
        dispatcher=dispatcher,
        outbox=outbox,
        backends=backends,
        metrics=metrics,
        programs=upstream.programs,
        max_body_bytes=settings.max_body_bytes,
    )
    sessions = SessionsApi(ledger, dispatcher, backends, upstream, settings.session_max_ttl_s)
    operator = OperatorApi(
        ledger, upstream, dispatcher.queue_length, dispatcher.place, jobs=jobs, sessions_api=sessions
    )
    inbox = Inbox(
        bus=bus,
        ledger=ledger,
        payloads=payloads,
        router=Router(backends, jobs, sessions, operator),
        sessions_api=sessions,
        dispatcher=dispatcher,
        metrics=metrics,
    )
    observing = Periodic(LOOK_S, Observer(ledger, upstream, metrics).look, name="observer")
    queue, telling = Background(dispatcher.run, name="dispatcher"), Background(outbox.run, name="outbox")
    # Stopped in reverse: first nothing new comes in, last the ledger closes.
    return (ledger, payloads, book, upstream, bus, telling, dispatcher, queue, inbox, observing)


def offered(
    settings: QpuBrokerSettings, ledger: LedgerThread, book: ChargeBook, changed: Callable[[], None]
) -> Upstream:
    """Return what the settings offer: IBM's devices, simulated ones, or both."""
    accounts = settings.ibm_accounts_file is not None or bool(settings.ibm_token.get_secret_value())
    simulated = settings.local_devices if settings.local_devices is not None else not accounts
    parts: list[Upstream] = []
    if accounts:
        parts.append(ibm(settings, ledger, book, changed))
    if simulated:
        parts.append(local_devices(settings, prefix=SIMULATED if accounts else ""))
    return parts[0] if len(parts) == 1 else Upstreams(parts)


def ibm(settings: QpuBrokerSettings, ledger: LedgerThread, book: ChargeBook, changed: Callable[[], None]) -> Upstream:
    """Return IBM's devices. Only here its client is imported: that takes seconds and 170 MB."""
    from qonduit_qpu_broker.ibm.accounts import accounts_of  # noqa: PLC0415
    from qonduit_qpu_broker.ibm.fleet import Fleet  # noqa: PLC0415
    from qonduit_qpu_broker.ibm.upstream import IbmUpstream  # noqa: PLC0415

    keep_secrets()
    # Else its client looks through the stack of each request, and sends the list of the packages that are installed.
    os.environ["USAGE_DATA_OPT_OUT"] = "True"
    fleet = Fleet(lambda: accounts_of(settings), ledger, changed)
    return IbmUpstream(
        fleet,
        ledger,
        book,
        poll_s=settings.ibm_poll_s,
        doubt_s=settings.ibm_doubt_s,
        results_s=settings.ibm_results_s,
        session_idle_s=settings.session_idle_s,
    )


def local_devices(settings: QpuBrokerSettings, *, prefix: str = "") -> Upstream:
    """Return the simulated devices."""
    key_file = settings.internal_key_file or settings.data_dir / "internal.key"
    limits = Limits(
        max_qubits=settings.max_qubits,
        memory_bytes=settings.simulator_memory_bytes,
        time_limit_s=settings.simulator_time_limit_s,
        threads=settings.simulator_threads,
        hidden=tuple(path for path in (settings.data_dir, key_file, settings.ibm_accounts_file) if path is not None),
    )
    catalog, scratch = DeviceCatalog(), settings.data_dir / "simulator"
    noisy = settings.simulator_noise == "noisy"
    files = maker = None
    if noisy and settings.simulator_noise_cache_bytes:
        files = NoiseFiles(settings.data_dir / "noise_models", catalog, settings.simulator_noise_cache_bytes)
        maker = NoiseMaker(files, limits, scratch)
    process = SimulatorProcess(limits, scratch, files)
    return LocalDevices(catalog, process, noisy=noisy, idle_s=settings.simulator_idle_s, prefix=prefix, noise=maker)
