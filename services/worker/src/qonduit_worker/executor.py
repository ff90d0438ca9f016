"""One executor's lease: a sandbox that runs one task after another."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from qonduit_service_kit.bus import UnroutableError
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import (
    ExecutorOutput,
    LeaseKind,
    QpuReply,
    QpuTransition,
    TaskResults,
    TasksCanceled,
    worker,
)

from qonduit_worker import metrics
from qonduit_worker.blob_server import BlobServer
from qonduit_worker.dependencies import DependencyError
from qonduit_worker.environment import Occupant, program_environment, threads_of
from qonduit_worker.mailbox import Mailbox
from qonduit_worker.outcome import clip
from qonduit_worker.program_channel import ProgramServer
from qonduit_worker.program_files import ProgramFiles
from qonduit_worker.program_ops import FileOps
from qonduit_worker.qpu_gate import qpu_endpoint, qpu_environment
from qonduit_worker.room import Room
from qonduit_worker.split_log import put_tag
from qonduit_worker.tasks import ExecutorDesk, Surroundings
from qonduit_worker.tasks.nested import NestedTasks
from qonduit_worker.workshop import EXECUTOR_ENTRY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from qonduit_service_kit.messages import ExecutorGranted

    from qonduit_worker.dependencies import Layer
    from qonduit_worker.program_channel import ProgramSession
    from qonduit_worker.sandbox import Exit, Sandboxed, Usage
    from qonduit_worker.tasks import Give, Post
    from qonduit_worker.workshop import Workshop

_log = get_logger(__name__)


class SandboxProcess:
    """An executor's process as the task layer sees it."""

    def __init__(self, sandboxed: Sandboxed) -> None:
        self._sandboxed = sandboxed
        self.output = sandboxed.output
        self.session: ProgramSession | None = None

    def push(self, name: str, **fields: Any) -> None:
        """Send to the process; raises ConnectionError when it is gone."""
        if self.session is None:
            raise ConnectionResetError("the executor has not connected")
        self.session.push(name, **fields)

    def usage(self) -> Usage:
        """Read what its tree used so far."""
        return self._sandboxed.usage()

    async def wait(self) -> Exit:
        """Wait for the end of its tree."""
        return await self._sandboxed.wait()

    def kill(self) -> None:
        """End its tree at once."""
        self._sandboxed.kill()


class Executor:
    """From the grant of a lease to its end."""

    def __init__(self, grant: ExecutorGranted, workshop: Workshop, post: Post) -> None:
        self.grant = grant
        self._shop = workshop
        self._storage = workshop.storage(grant.storage_ticket)
        self._room = Room.make(workshop.rooms, LeaseKind.EXECUTOR)
        self._server = ProgramServer(self._room.socket)
        self._files = ProgramFiles(self._room, grant, self._storage, workshop.cache)
        self._blobs = workshop.blobs(
            self._storage, job_id=grant.job_id, attempt=grant.attempt, home=grant.driver_worker_id
        )
        self._blob_server = BlobServer(self._room.blob_socket, self._blobs)
        self._desk: ExecutorDesk | None = None
        self._surroundings = Surroundings(workshop.worker_id, workshop.bus, post)
        self._nested = NestedTasks(grant, self._surroundings, parent=self._running_task_id, push=self._server.push)
        self._process: SandboxProcess | None = None
        self._started: asyncio.Future[tuple[SandboxProcess, ExecutorDesk]] = asyncio.get_running_loop().create_future()
        self._stopped = asyncio.Event()
        self._layer: Layer | None = None
        self._told = 0
        self._qpu = qpu_endpoint(workshop, self._blobs, grant, on_transition=self._qpu_step)
        self.mail = Mailbox(self._handle)

    @property
    def idle_since(self) -> float | None:
        """Since when it has nothing to do; None while busy or not started."""
        return self._desk.idle_since if self._desk is not None else None

    @property
    def lends_cpu(self) -> bool:
        """Whether its task waits in get() and has given its cpu back."""
        return self._desk is not None and self._desk.lends_cpu

    def tell(self, message: TasksCanceled | TaskResults) -> None:
        """Take a word of the driver's agent; one that comes twice changes nothing."""
        if isinstance(message, TaskResults):
            self._nested.handle(message)
        elif self._desk is not None:
            self._desk.canceled(message)

    def give_if_idle(self) -> Give | None:
        """Return what gives it a batch at once, if it is up and has nothing to do."""
        return self._desk.give if self._desk is not None and self._desk.idle else None

    async def run(self) -> str:
        """Run tasks until the lease ends; returns why it ended. Raises what preparing it raised."""
        await self._prepare_unless_stopped()
        if self._stopped.is_set():
            return "revoked before it began"
        process = await self._fork()
        try:
            if not self._stopped.is_set() and self._desk is not None:
                await self._desk.run()
        finally:
            process.kill()
            end = await process.wait()
        if end.oom_killed:
            metrics.OOM_KILLS.labels(LeaseKind.EXECUTOR).inc()
            return "out of memory"
        return f"signal {end.signal}" if end.signal is not None else f"exit code {end.exit_code}"

    async def revoke(self, *, now: bool) -> None:
        """Give the lease back: after the task in hand, or at once."""
        if now or self._desk is None:
            self._stopped.set()
        if self._desk is not None:
            await self._desk.revoke(now=now)

    def kill(self) -> None:
        """End it at once."""
        self._stopped.set()
        if self._process is not None:
            self._process.kill()

    async def clean_up(self) -> None:
        """Give everything back."""
        await self.mail.close()
        await self._nested.stop()
        await self._qpu.stop()
        await self._server.stop()
        await self._blob_server.stop()
        await self._blobs.close()
        if self._layer is not None:
            self._shop.layers.release(self._layer)
            self._layer = None
        await self._room.remove()

    async def _handle(self, message: object) -> None:
        match message:
            case QpuReply():
                self._qpu.handle_reply(message)
            case QpuTransition():
                await self._qpu.handle_transition(message)

    async def _qpu_step(self, transition: QpuTransition) -> None:
        """The agent has told the driver's worker."""

    async def _prepare_unless_stopped(self) -> None:
        """Prepare, or return as soon as nobody wants this lease: a user's files may take minutes to come."""
        preparing = asyncio.create_task(self._prepare())
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait({preparing, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if preparing.done():
                preparing.result()
        finally:
            stopped.cancel()
            preparing.cancel()
            await asyncio.wait({preparing})

    async def _prepare(self) -> None:
        self._server.register("executor_ready", self._ready)
        self._server.listen("task_result", self._result)
        self._server.listen("task_function", lambda _, fields: self._nested.define(fields))
        self._server.listen("tasks_submit", self._submit)
        self._server.listen("tasks_cancel", lambda _, fields: self._nested.cancel(fields))
        self._server.listen("tasks_waiting", self._waiting)
        FileOps(self._files.data, self._room.parts, most_bytes=self._shop.settings.file_bytes).register(self._server)
        try:
            self._layer = await self._shop.layers.hold(self.grant.dependencies, self._tell)
        except DependencyError as error:
            text = "an executor could not be started here"
            await self._tell(clip(f"{text}. {error}"), for_users=f"{text}; the function's provider can see why")
            raise
        await asyncio.gather(
            self._server.start(), self._blob_server.start(), self._bring_artifact(), self._files.fill()
        )

    async def _tell(self, line: str, *, for_users: str = "") -> None:
        """Put a line into the job's log, which only the driver's agent writes.

        It may name what the function consists of, so that users of a provider's function get `for_users` instead.
        """
        grant, self._told = self.grant, self._told + 1
        chunk = self._said(line)
        if grant.provider_space:
            lines = chunk.splitlines(keepends=True)
            chunk = b"".join(put_tag(each, public=False) for each in lines)
            chunk += put_tag(self._said(for_users), public=True) if for_users else b""
        # Its numbers are its own: those of the lease are the program's output.
        output = ExecutorOutput(grant.job_id, grant.attempt, f"{grant.lease_id}.build", self._told, chunk)
        with contextlib.suppress(UnroutableError):  # The driver's worker is gone for good.
            await self._shop.bus.publish(worker(grant.driver_worker_id), output)

    def _said(self, line: str) -> bytes:
        return f"[qonduit] worker {self._shop.worker_id}: {line}\n".encode()

    async def _bring_artifact(self) -> None:
        digest = self.grant.artifact_digest
        if digest:
            with self._shop.cache.pinned(digest):
                artifact = await self._shop.cache.fetch(self._storage, digest)
                await self._room.unpack(artifact, most_bytes=self._shop.settings.artifact_bytes)

    async def _fork(self) -> SandboxProcess:
        grant, shop = self.grant, self._shop
        provided = bool(grant.provider_space)
        occupant = Occupant(LeaseKind.EXECUTOR, grant.job_id, grant.attempt, grant.shape, provided=provided)
        paths = shop.zygotes.inside(self._room.directory, self._layer)
        environment = program_environment(occupant, paths, qpu=qpu_environment(self._qpu), own=grant.environment)
        sandbox = shop.sandbox(self._room, grant.shape, environment, EXECUTOR_ENTRY, self._layer)
        forked = await shop.zygotes.fork(
            sandbox, threads=threads_of(grant.shape), kind=LeaseKind.EXECUTOR, layer=self._layer
        )
        await self._qpu.start(forked.sandboxed.open_listener())
        self._process = SandboxProcess(forked.sandboxed)
        self._desk = ExecutorDesk(grant, self._surroundings, self._process)
        self._started.set_result((self._process, self._desk))
        return self._process

    async def _ready(self, session: ProgramSession, fields: Mapping[str, Any]) -> None:
        del fields
        # The program may be quicker than the answer of its zygote.
        process, desk = await self._started
        process.session = session
        desk.ready()

    def _result(self, _: ProgramSession, fields: Mapping[str, Any]) -> None:
        if self._desk is not None:
            self._desk.on_result(fields)

    def _submit(self, session: ProgramSession, fields: Mapping[str, Any]) -> Awaitable[object] | None:
        session.wants_pushes = True
        return self._nested.submit(fields)

    def _waiting(self, session: ProgramSession, fields: Mapping[str, Any]) -> None:
        session.wants_pushes = True
        if self._desk is not None:
            self._desk.waiting(bool(fields.get("waiting")))
            self._nested.waiting(self._desk.lends_cpu)

    def _running_task_id(self) -> str:
        return self._desk.running_task_id if self._desk is not None else ""
