"""Puts the parts of the gateway together."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from qonduit_api.v1 import (
    cluster_pb2_grpc,
    files_pb2,
    files_pb2_grpc,
    functions_pb2,
    functions_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    providers_pb2_grpc,
    qpu_pb2_grpc,
)
from qonduit_service_kit.bus import Bus
from qonduit_service_kit.chunks import ChunkInterceptor, method_of
from qonduit_service_kit.lifecycle import Periodic
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.memory import keep_large_pieces
from qonduit_service_kit.messages import (
    AttemptLost,
    ClusterReport,
    EventKind,
    JobEvent,
    PackedTasksPage,
    PlacementRefused,
    QpuCharged,
    QpuReply,
    SchedulerHello,
)
from qonduit_service_kit.metrics import REGISTRY
from qonduit_service_kit.rpc import GrpcServer
from qonduit_service_kit.tickets import TicketSigner, load_or_create_key

from qonduit_gateway import job_spans
from qonduit_gateway.api.callers import CHECK_AGAIN_S, CallerInterceptor, token_digest
from qonduit_gateway.api.cluster import ClusterService
from qonduit_gateway.api.files import FileService
from qonduit_gateway.api.function_catalog import FunctionCatalog
from qonduit_gateway.api.functions import FunctionService
from qonduit_gateway.api.jobs import JobService
from qonduit_gateway.api.providers import ProviderService
from qonduit_gateway.api.qpu import QpuService
from qonduit_gateway.api.run_jobs import JobIntake
from qonduit_gateway.api.run_requests import RunLimits
from qonduit_gateway.cluster_view import ClusterView
from qonduit_gateway.collector import Collector
from qonduit_gateway.database import job_rows, user_rows
from qonduit_gateway.database.engine import Database
from qonduit_gateway.database.migrate import upgrade
from qonduit_gateway.dead_letter_box import DeadLetterBox
from qonduit_gateway.functions.schema_process import SchemaProcess
from qonduit_gateway.inbox import Inbox
from qonduit_gateway.instruments import Instruments
from qonduit_gateway.ledger import JobLedger
from qonduit_gateway.outgoing import OutgoingFactory
from qonduit_gateway.qpu_book import QpuBook
from qonduit_gateway.qpu_link import QpuLink
from qonduit_gateway.relay import OutboxRelay
from qonduit_gateway.rest.app import application, operations
from qonduit_gateway.rest.calls import RestCalls
from qonduit_gateway.rest.files import Files, Spaces
from qonduit_gateway.rest.holding import Polls
from qonduit_gateway.rest.job_lists import JobLists
from qonduit_gateway.rest.jobs import Jobs
from qonduit_gateway.rest.programs import Programs
from qonduit_gateway.rest.providers import Providers
from qonduit_gateway.rest.server import RestServer
from qonduit_gateway.scheduler_link import SchedulerLink
from qonduit_gateway.storage_client import StorageClient
from qonduit_gateway.sweeper import Sweeper
from qonduit_gateway.task_book import TaskBook
from qonduit_gateway.watchers import Watchers
from qonduit_gateway.worker_orders import WorkerOrders

if TYPE_CHECKING:
    from collections.abc import Sequence

    import grpc.aio
    from prometheus_client import CollectorRegistry
    from qonduit_service_kit.lifecycle import Part
    from starlette.types import ASGIApp

    from qonduit_gateway.ledger import Change
    from qonduit_gateway.settings import GatewaySettings

SERVICES = tuple(
    f"qonduit_api.v1.{name}"
    for name in ("FunctionService", "JobService", "FileService", "ProviderService", "QpuService", "ClusterService")
)
_CHUNKED = (
    method_of(functions_pb2.DESCRIPTOR, "FunctionService", "UploadFunction"),
    *(method_of(jobs_pb2.DESCRIPTOR, "JobService", name) for name in ("UploadArguments", "GetArguments", "GetResult")),
    *(method_of(files_pb2.DESCRIPTOR, "FileService", name) for name in ("UploadFile", "DownloadFile")),
)
_MIGRATION_TIMEOUT_S = 80.0
_SURELY_KEPT = 0.2
"""The part of `blob_grace_s` in which a blob that was stored need not be stored again for a job: far from its end."""
_log = get_logger("gateway")


class DatabasePart:
    """The database as a part: migrated and seeded before anybody uses it."""

    def __init__(self, database: Database, settings: GatewaySettings, instruments: Instruments) -> None:
        self._database = database
        self._settings = settings
        self._instruments = instruments

    async def start(self) -> None:
        """Run the missing migrations, make sure of the administrator, count the jobs."""
        if await self._database.write(upgrade, timeout_s=_MIGRATION_TIMEOUT_S):
            _log.info("database migrated", database=self._database.where)
        path = self._settings.admin_token_file
        if path is not None:
            digest = token_digest(path.read_text().strip())
            name, now = self._settings.admin_user, time.time()
            await self._database.write(lambda connection: user_rows.bootstrap(connection, name, digest, at=now))
        self._instruments.set_jobs(await self._database.read(job_rows.count_by_state))

    async def stop(self) -> None:
        """Close every connection."""
        await self._database.close()


class Gateway:
    """The parts of one gateway, in the order in which they start."""

    def __init__(self, settings: GatewaySettings, *, registry: CollectorRegistry = REGISTRY) -> None:
        self._settings = settings
        self._registry = registry
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        key = load_or_create_key(settings.internal_key_file or settings.data_dir / "internal.key")
        signer = TicketSigner(key)
        self.database = Database(settings.database, busy_timeout_s=settings.database_busy_timeout_s)
        self.bus = Bus(settings.amqp_url.get_secret_value(), app_id="gateway", registry=registry)
        self.storage = StorageClient(
            settings.storage_address,
            signer,
            ca=settings.storage_ca,
            remember_s=settings.blob_grace_s * _SURELY_KEPT,
        )
        self.instruments = Instruments(registry, by_user=settings.metrics_by_user)
        self.watchers = Watchers()
        self.cluster = ClusterView()
        self.outgoing = OutgoingFactory(
            signer,
            limit=settings.limit_shape,
            clock=time.time,
            limit_qpu_seconds=settings.limit_qpu_seconds,
            limit_file_bytes=settings.limit_file_bytes,
            limit_running_jobs=settings.limit_running_jobs,
        )
        self.relay = OutboxRelay(self.database, self.bus, self.storage)
        self.schemas = SchemaProcess()
        self.tasks = TaskBook(self.database, self.watchers)
        self.charges = QpuBook(self.database, self.instruments)
        self.ledger = JobLedger(
            self.database,
            self.outgoing,
            self._told,
            max_attempts=settings.max_attempts,
            tell_again_s=settings.tell_again_s,
            limit_active_jobs=settings.limit_active_jobs,
        )
        self.qpu = QpuLink(self.bus, self.storage, timeout_s=settings.qpu_timeout_s)
        self.dead_letters = DeadLetterBox(self.bus, self.database, self.instruments)
        self._callers = CallerInterceptor(self.database)
        self._services()
        self.server = self._server()

    def parts(self) -> Sequence[Part]:
        """Return the parts in the order in which they start; they stop in reverse.

        The API opens last and closes first, so that nobody is let in before all is ready.
        """
        settings = self._settings
        sweeper = Sweeper(
            self.database,
            self.relay,
            self.outgoing,
            self.cluster,
            self.instruments,
            tell_again_s=settings.tell_again_s,
        )
        collector = Collector(
            self.database,
            self.ledger,
            self.storage,
            retention_s=settings.job_retention_s,
            grace_s=settings.blob_grace_s,
            unused_s=settings.blob_unused_s,
        )
        return (
            DatabasePart(self.database, settings, self.instruments),
            self.storage,
            self.schemas,
            self.bus,
            self.relay,
            self._inbox(),
            self.dead_letters,
            Periodic(settings.sweep_interval_s, sweeper.sweep, name="sweeper"),
            Periodic(settings.collect_interval_s, collector.collect, name="collector"),
            Periodic(CHECK_AGAIN_S, self._callers.check_again, name="callers"),
            self.server,
            *([self._rest()] if settings.rest else []),
        )

    def _told(self, change: Change) -> None:
        self.relay.send(change.outgoing)
        if change.before is None or change.job.progress.revision > change.before.revision:
            self.watchers.tell(change.job)
        self.instruments.observe(change)
        job_spans.observe(change)

    def _user_changed(self) -> None:
        self._callers.forget()
        self.relay.wake()

    async def _happened(self, event: JobEvent) -> None:
        if event.kind is EventKind.FINISHED:
            await self.tasks.settled(event.job_id)
        await self.ledger.apply(event)

    async def _heard(self, report: ClusterReport) -> None:
        self.cluster.update(report)

    def _inbox(self) -> Inbox:
        link = SchedulerLink(self.database, self.bus, self.relay, self.outgoing)
        return Inbox(
            self.bus,
            {
                SchedulerHello: link.hello,
                JobEvent: self._happened,
                PackedTasksPage: self.tasks.take,
                PlacementRefused: self.ledger.refused,
                AttemptLost: self.ledger.lost,
                ClusterReport: self._heard,
                QpuReply: self.qpu.reply,
                QpuCharged: self.charges.take,
            },
            in_any_order=frozenset({PackedTasksPage, QpuCharged}),
        )

    def _server(self) -> GrpcServer:
        settings = self._settings
        return GrpcServer(
            self._register,
            services=SERVICES,
            host=settings.listen_host,
            port=settings.listen_port,
            interceptors=(self._callers, ChunkInterceptor(*_CHUNKED)),
            tls_cert=settings.tls_cert,
            tls_key=settings.tls_key,
            allow_insecure=settings.allow_insecure,
            registry=self._registry,
        )

    def _services(self) -> None:
        """Make what both fronts serve, by gRPC and by REST."""
        settings = self._settings
        limit = settings.artifact_limit_bytes
        catalog = FunctionCatalog(self.database)
        limits = RunLimits(settings.default_shape, settings.default_time_limit_s, settings.max_time_limit_s)
        self._intake = JobIntake(self.ledger, catalog, self.storage, self.schemas, limits)
        self._functions = FunctionService(
            self.database, self.storage, catalog, self.schemas, artifact_limit_bytes=limit
        )
        self._jobs = JobService(
            self.database, self.ledger, self._intake, self.storage, watchers=self.watchers, cluster=self.cluster
        )
        self._files = FileService(self.storage, catalog, self.database, default_limit_bytes=settings.limit_file_bytes)
        self._providers = ProviderService(self.database, self.storage)
        self._polls = Polls(settings.rest_hold_s)
        self._qpus = QpuService(self.qpu, self.database, default_qpu_seconds=settings.limit_qpu_seconds)

    def _register(self, server: grpc.aio.Server) -> None:
        settings = self._settings
        cluster = ClusterService(
            self.database,
            self.cluster,
            self.dead_letters,
            WorkerOrders(self.bus, self.cluster),
            artifact_limit_bytes=settings.artifact_limit_bytes,
            default_limit=settings.limit_shape,
            default_qpu_seconds=settings.limit_qpu_seconds,
            default_file_bytes=settings.limit_file_bytes,
            default_active_jobs=settings.limit_active_jobs,
            default_running_jobs=settings.limit_running_jobs,
            max_time_limit_s=settings.max_time_limit_s,
            ledger=self.ledger,
            outgoing=self.outgoing,
            user_changed=self._user_changed,
        )
        functions_pb2_grpc.add_FunctionServiceServicer_to_server(self._functions, server)
        jobs_pb2_grpc.add_JobServiceServicer_to_server(self._jobs, server)
        files_pb2_grpc.add_FileServiceServicer_to_server(self._files, server)
        providers_pb2_grpc.add_ProviderServiceServicer_to_server(self._providers, server)
        qpu_pb2_grpc.add_QpuServiceServicer_to_server(self._qpus, server)
        cluster_pb2_grpc.add_ClusterServiceServicer_to_server(cluster, server)

    def _rest(self) -> RestServer:
        settings = self._settings
        return RestServer(
            self._rest_application,
            host=settings.rest_host,
            port=settings.rest_port,
            tls_cert=settings.tls_cert,
            tls_key=settings.tls_key,
            allow_insecure=settings.allow_insecure,
            before_stop=self._polls.release,
        )

    def _rest_application(self) -> ASGIApp:
        settings = self._settings
        people = Providers(self._providers)
        programs = Programs(
            self._functions, self._jobs, self._intake, people, artifact_limit_bytes=settings.artifact_limit_bytes
        )
        spaces = Spaces(programs, people)
        offered = operations(
            programs,
            JobLists(self._jobs, self._providers, programs, people),
            Jobs(self._jobs, self._qpus, self._providers, self._polls),
            Files(self._files, spaces.of_user),
            Files(self._files, spaces.of_provider),
        )
        return application(offered, RestCalls(self._callers, self._registry), lambda: self.server.serving)


async def build(settings: GatewaySettings) -> Sequence[Part]:
    """Return the parts of a gateway."""
    keep_large_pieces()
    return Gateway(settings).parts()
