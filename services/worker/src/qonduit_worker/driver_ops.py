"""What a driver's program may ask of its agent, and the parts that answer it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qonduit_service_kit.messages import QpuReply, QpuTransition, SchedulerElected

from qonduit_worker.blob_server import BlobServer
from qonduit_worker.environment import own_variables
from qonduit_worker.program_ops import FileOps, ResultOps
from qonduit_worker.program_words import ProgramWords
from qonduit_worker.qpu_gate import qpu_endpoint
from qonduit_worker.tasks import DriverCallbacks, DriverContext, TaskDesk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from qonduit_service_kit.messages import DriverGranted

    from qonduit_worker.accounting import Accounts
    from qonduit_worker.data_folder import DataFolder
    from qonduit_worker.log_pump import LogPump
    from qonduit_worker.program_channel import ProgramServer, ProgramSession
    from qonduit_worker.room import Room
    from qonduit_worker.split_log import SplitLog
    from qonduit_worker.storage import Storage
    from qonduit_worker.tasks import IdleExecutor, Post
    from qonduit_worker.workshop import Workshop


class Reconnected:
    """RabbitMQ was away and is back."""


class DriverOps:
    """The operations of one driver's channel."""

    def __init__(
        self,
        grant: DriverGranted,
        workshop: Workshop,
        *,
        storage: Storage,
        room: Room,
        server: ProgramServer,
        data: DataFolder,
        accounts: Accounts,
        pump: LogPump | SplitLog,
        post: Post,
        idle_executor: IdleExecutor,
    ) -> None:
        self._accounts = accounts
        spec = grant.spec
        blobs = workshop.blobs(storage, job_id=spec.job_id, attempt=spec.attempt, home=workshop.worker_id)
        self._blobs = blobs
        self.blob_server = BlobServer(room.blob_socket, blobs)
        settings = workshop.settings
        self.results = ResultOps(blobs, room.parts, most_bytes=settings.result_bytes)
        self.words = ProgramWords(spec, accounts, self.results, pump.note)
        callbacks = DriverCallbacks(
            push=server.push,
            unsent=lambda: server.unsent_bytes,
            stage=lambda: accounts.stage,
            book=accounts.book_task,
            idle_executor=idle_executor,
            keep=blobs.put_local,
            release=blobs.release,
            write_log=pump.write,
            note_log=pump.note,
        )
        self.qpu = qpu_endpoint(workshop, blobs, spec, on_transition=self._qpu_step, words=self.words)
        self.desk = TaskDesk(_context(grant, workshop.worker_id), workshop.bus, post, callbacks)
        self.words.register(server)
        FileOps(data, room.parts, most_bytes=settings.file_bytes).register(server)
        server.listen("task_function", lambda _, fields: self.desk.define(fields))
        server.listen("tasks_submit", self._submit)
        server.listen("tasks_cancel", lambda _, fields: self.desk.cancel(fields))
        server.listen("tasks_waiting", self._waiting)

    async def close(self) -> None:
        """End with the driver; safe to call twice."""
        await self.qpu.stop()
        try:
            await self.desk.close()
        finally:
            await self.blob_server.stop()
            await self._blobs.close()

    async def handle(self, message: object) -> None:
        """Take a message that came for this attempt; each may come twice."""
        match message:
            case SchedulerElected():
                self.desk.tell_demand_again()
            case Reconnected():
                self.desk.send_queued_again()
            case QpuReply():
                self.qpu.handle_reply(message)
            case QpuTransition():
                await self.qpu.handle_transition(message)
            case _:
                self.desk.handle(message)

    async def _qpu_step(self, transition: QpuTransition) -> None:
        self._accounts.qpu_says(transition)

    def _submit(self, session: ProgramSession, fields: Mapping[str, Any]) -> Awaitable[object] | None:
        session.wants_pushes = True
        return self.desk.submit(fields)

    def _waiting(self, session: ProgramSession, fields: Mapping[str, Any]) -> None:
        session.wants_pushes = True
        self.desk.waiting(bool(fields.get("waiting")))


def _context(grant: DriverGranted, worker_id: str) -> DriverContext:
    spec = grant.spec
    return DriverContext(
        job_id=spec.job_id,
        attempt=spec.attempt,
        user=spec.user,
        worker_id=worker_id,
        lease_id=grant.lease_id,
        limit=spec.limit,
        storage_ticket=spec.storage_ticket,
        artifact_digest=spec.artifact_digest,
        # Executors look for modules where the driver does: beside the entrypoint.
        environment={**own_variables(spec), "QONDUIT_ENTRYPOINT": spec.entrypoint},
        dependencies=spec.dependencies,
        qpu_budget_s=spec.qpu_budget_s,
        user_qpu_budget_s=spec.user_qpu_budget_s,
        files=spec.files,
        traceparent=spec.traceparent,
        space=spec.space,
        provider_space=spec.provider_space,
        provider=spec.provider,
    )
