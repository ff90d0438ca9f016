"""One attempt of a job, from its grant to its end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.bus import UnroutableError
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import (
    GATEWAY,
    QPU_BROKER,
    AttemptLost,
    EventKind,
    LeaseKind,
    ProgramEnded,
    Reason,
)

from qonduit_worker import metrics
from qonduit_worker.accounting import Accounts
from qonduit_worker.archive import BadArchiveError
from qonduit_worker.dependencies import DependencyError
from qonduit_worker.driver_ops import DriverOps
from qonduit_worker.environment import Occupant, own_variables, program_environment, threads_of
from qonduit_worker.events import EventOutbox
from qonduit_worker.mailbox import Mailbox
from qonduit_worker.outcome import Ending, Verdict, clip, judge
from qonduit_worker.program_channel import ProgramServer
from qonduit_worker.program_files import ProgramFiles
from qonduit_worker.qpu_gate import qpu_environment
from qonduit_worker.room import Room
from qonduit_worker.sandbox import SandboxError, SandboxStartError
from qonduit_worker.split_log import open_log
from qonduit_worker.storage import StorageError
from qonduit_worker.workshop import DRIVER_ENTRY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

    from qonduit_service_kit.messages import DriverGranted

    from qonduit_worker.dependencies import Layer
    from qonduit_worker.sandbox import Exit
    from qonduit_worker.tasks import IdleExecutor, Post
    from qonduit_worker.workshop import Workshop
    from qonduit_worker.zygotes import Forked

_LOG_GIVE_UP_S: Final = 600.0
_MOST_NOTES: Final = 100

_log = get_logger(__name__)


class AttemptLostError(Exception):
    """This worker cannot finish the attempt, for no fault of the program: it should be tried elsewhere."""


class StoppedError(Exception):
    """The attempt was told to end before its program began."""


class Driver:
    """Prepares, runs, watches and reports one attempt. `run` returns once its FINISHED is with RabbitMQ."""

    def __init__(self, grant: DriverGranted, workshop: Workshop, post: Post, idle_executor: IdleExecutor) -> None:
        spec = grant.spec
        self.spec = spec
        self.lease_id = grant.lease_id
        self._shop = workshop
        self._storage = workshop.storage(spec.storage_ticket)
        self._events = EventOutbox(workshop.bus, job_id=spec.job_id, attempt=spec.attempt, worker_id=workshop.worker_id)
        self._room = Room.make(workshop.rooms, LeaseKind.DRIVER)
        self._server = ProgramServer(self._room.socket)
        self._files = ProgramFiles(self._room, spec, self._storage, workshop.cache)
        self._pump = open_log(self._storage, spec)
        self._accounts = Accounts(self._events)
        self._ops = DriverOps(
            grant,
            workshop,
            storage=self._storage,
            room=self._room,
            server=self._server,
            data=self._files.data,
            accounts=self._accounts,
            pump=self._pump,
            post=post,
            idle_executor=idle_executor,
        )
        self.mail = Mailbox(self._ops.handle)
        """Messages about this attempt, for its parts."""
        self._stop_told = asyncio.Event()
        self._stop_cause = Reason.NONE
        self._grace_s = workshop.settings.cancel_grace_s
        self._silent = False
        self._pumping: asyncio.Task[None] | None = None
        self._layer: Layer | None = None

    # --- What the agent tells ------------------------------------------------------------------

    def stop(self, cause: Reason, *, grace_s: float, silent: bool = False) -> None:
        """End the attempt; the first cause counts. `silent`: nobody wants to hear of it any more."""
        self._silent = self._silent or silent
        if not self._stop_told.is_set():
            self._stop_cause, self._grace_s = cause, grace_s
            self._stop_told.set()

    def tell_tasks(self, message: object) -> None:
        """Take a message about this attempt's tasks; one that comes twice changes nothing."""
        self._ops.desk.handle(message)

    @property
    def lends_cpu(self) -> bool:
        """Whether it waits in get() and has given its cpu back."""
        return self._ops.desk.lends_cpu

    # --- The attempt ---------------------------------------------------------------------------

    async def run(self) -> str:
        """Go through the attempt, report its end, and say how it went in a word."""
        self._events.emit(EventKind.INITIALIZING)
        try:
            verdict = await self._attempt()
        except StoppedError:
            verdict = self._verdict_of_stop()
        except AttemptLostError as error:
            await self._report_lost(str(error))
            return str(error)
        except Exception as error:  # noqa: BLE001 - Whatever it was, the attempt must end and be told.
            _log.exception("driver_failed", job=self.spec.job_id, attempt=self.spec.attempt)
            verdict = Verdict(Reason.INTERNAL, clip(f"The worker failed: {error}. Its log says more; try again."))
        await self._report(verdict)
        return "done" if verdict.reason is Reason.NONE else verdict.reason.value

    async def _attempt(self) -> Verdict:
        begun = time.monotonic()
        try:
            await self._unless_stopped(self._bring_layer())
            await self._unless_stopped(self._prepare())
            await self._unless_stopped(self._shop.zygotes.ready(threads_of(self.spec.shape)))
        except BadArchiveError as error:
            text = f"The function cannot be started: {error}. Upload it again."
            return Verdict(Reason.INTERNAL, text, for_author=True)
        except DependencyError as error:
            return Verdict(Reason.DEPENDENCY_ERROR, clip(str(error)), for_author=True)
        forked = await self._fork()
        metrics.PREPARE_SECONDS.observe(time.monotonic() - begun)
        return await self._accompany(forked)

    async def _bring_layer(self) -> None:
        """Have what the function depends on; a build may take minutes, and the job's time limit counts."""
        limit = self.spec.time_limit_s if self.spec.time_limit_s > 0 else None
        try:
            async with asyncio.timeout(limit):
                self._layer = await self._shop.layers.hold(self.spec.dependencies, self._pump.note_to_author)
        except TimeoutError:
            self.stop(Reason.TIMEOUT, grace_s=0.0)
            raise StoppedError from None

    async def _prepare(self) -> None:
        try:
            await asyncio.gather(
                self._server.start(),
                self._ops.blob_server.start(),
                self._bring_artifact(),
                self._bring_arguments(),
                self._files.fill(),
            )
        except StorageError as error:
            if error.transient:
                raise AttemptLostError(f"storage could not be reached: {error}") from error
            raise

    async def _bring_artifact(self) -> None:
        digest = self.spec.artifact_digest
        with self._shop.cache.pinned(digest):
            artifact = await self._shop.cache.fetch(self._storage, digest)
            await self._room.unpack(artifact, most_bytes=self._shop.settings.artifact_bytes)

    async def _bring_arguments(self) -> None:
        digest = self.spec.arguments_digest
        with self._shop.cache.pinned(digest):
            await self._room.put_arguments(await self._shop.cache.fetch(self._storage, digest))

    async def _fork(self) -> Forked:
        spec = self.spec
        provided = bool(spec.provider_space)
        occupant = Occupant(LeaseKind.DRIVER, spec.job_id, spec.attempt, spec.shape, spec.entrypoint, provided)
        environment = program_environment(
            occupant,
            self._shop.zygotes.inside(self._room.directory, self._layer),
            qpu=qpu_environment(self._ops.qpu),
            own=own_variables(spec),
        )
        sandbox = self._shop.sandbox(self._room, spec.shape, environment, DRIVER_ENTRY, self._layer)
        try:
            return await self._shop.zygotes.fork(
                sandbox, threads=threads_of(spec.shape), kind=LeaseKind.DRIVER, layer=self._layer
            )
        except SandboxStartError as error:
            raise AttemptLostError(f"the sandbox could not be made: {error}") from error
        except SandboxError as error:
            raise AttemptLostError(str(error)) from error

    async def _accompany(self, forked: Forked) -> Verdict:
        """Be with the program from its first line to its end."""
        sandboxed = forked.sandboxed
        self._accounts.start(sandboxed.usage)
        self._events.emit(EventKind.RUNNING)
        await self._ops.qpu.start(sandboxed.open_listener())
        pumping = asyncio.create_task(self._pump.pump(sandboxed.output))
        reporting = asyncio.create_task(self._report_usage())
        try:
            end = await self._end_of(forked)
            self._accounts.finish()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(pumping), self._shop.settings.log_patience_s)
            if self._silent:
                raise StoppedError
            return await self._conclude(forked, end)
        finally:
            reporting.cancel()
            sandboxed.kill()
            await sandboxed.wait()
            # A pump that storage holds up goes on until the clean-up is over.
            self._pumping = pumping

    async def _end_of(self, forked: Forked) -> Exit:
        """Wait for the program's end; bring it about when its time is over or somebody says so."""
        sandboxed = forked.sandboxed
        ended = asyncio.create_task(sandboxed.wait())
        told = asyncio.create_task(self._stop_told.wait())
        limit = self.spec.time_limit_s if self.spec.time_limit_s > 0 else None
        try:
            await asyncio.wait({ended, told}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                self.stop(Reason.TIMEOUT, grace_s=self._grace_s)
                if self._grace_s > 0 and not self._silent:
                    sandboxed.terminate()
                    await asyncio.wait({ended}, timeout=self._grace_s)
                sandboxed.kill()
            return await ended
        finally:
            told.cancel()
            ended.cancel()

    async def _conclude(self, forked: Forked, end: Exit) -> Verdict:
        if end.signal is not None and not end.oom_killed and not self._stop_told.is_set() and await forked.orphaned():
            raise AttemptLostError("the interpreter that the program was forked from died")
        if end.oom_killed:
            metrics.OOM_KILLS.labels(LeaseKind.DRIVER).inc()
        await self._return_files(end)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._pump.flush(), self._shop.settings.log_patience_s)
        return judge(
            Ending(
                exit=end,
                mem_limit_bytes=self.spec.shape.mem_bytes,
                time_limit_s=self.spec.time_limit_s,
                stopped=self._stop_cause,
                error_text=self._ops.words.traceback,
                result_error=self._ops.results.error,
            )
        )

    async def _return_files(self, end: Exit) -> None:
        """Send back what the program left in /data, unless it was cut off, maybe in the middle of a file."""
        if end.signal is None:
            refused = await self._files.data.send_back()
        else:
            refused = await asyncio.to_thread(self._files.data.cut_off)
        for each in refused[:_MOST_NOTES]:
            await self._pump.note(each.text)
        if len(refused) > _MOST_NOTES:
            await self._pump.note(f"{len(refused) - _MOST_NOTES} more in /data were not kept")
        if aside := await asyncio.to_thread(self._shop.refused.keep, refused, self._room.data, self.spec.job_id):
            await self._pump.note(aside)

    async def _report_usage(self) -> None:
        while True:
            await asyncio.sleep(self._shop.settings.usage_s)
            self._accounts.report()

    # --- The end -------------------------------------------------------------------------------

    def _verdict_of_stop(self) -> Verdict:
        if self._stop_cause is Reason.TIMEOUT:
            limit_s = self.spec.time_limit_s
            return Verdict(Reason.TIMEOUT, f"The function's environment was not built in the job's {limit_s:g} s.")
        return Verdict(self._stop_cause, "The job was ended before its program began.")

    async def _report(self, verdict: Verdict) -> None:
        result = self._ops.results.result
        if not self._silent:
            await self._until_fenced(self._ops.desk.settle())
            text, error = self._ops.words.end_of(verdict)
            if verdict.text not in {text, self._ops.words.traceback}:  # A traceback is in the log already.
                await self._until_fenced(self._print(verdict.text))
            self._events.emit(
                EventKind.FINISHED,
                stage=self._accounts.stage,
                reason=verdict.reason,
                text=text,
                error=error,
                exit_code=verdict.exit_code,
                signal=verdict.signal,
                result_digest=result.digest,
                result_bytes=result.size_bytes,
                result=result.small if verdict.reason is Reason.NONE else None,
                usage=self._accounts.usage(),
            )
            await self._until_fenced(self._events.flush())
        metrics.ENDINGS.labels(verdict.reason.value).inc()
        _log.info(
            "driver_ended",
            job=self.spec.job_id,
            attempt=self.spec.attempt,
            reason=verdict.reason.value,
            exit_code=verdict.exit_code,
            signal=verdict.signal,
        )

    async def _print(self, text: str) -> None:
        """Say to a provider what its users don't read, among what its program printed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._shop.settings.log_patience_s):
                await self._pump.write(f"{text}\n".encode())
                await self._pump.flush()

    async def _report_lost(self, why: str) -> None:
        """Have the gateway queue the job again: the program is not to blame."""
        _log.error("attempt_lost", job=self.spec.job_id, attempt=self.spec.attempt, reason=why)
        metrics.ENDINGS.labels(Reason.WORKER_LOST.value).inc()
        if self._silent:
            return
        lost = AttemptLost(self.spec.job_id, self.spec.attempt, self._shop.worker_id, why)
        await self._until_fenced(self._events.flush())
        with contextlib.suppress(UnroutableError):
            await self._until_fenced(self._shop.bus.publish(GATEWAY, lost))

    async def _until_fenced(self, work: Awaitable[None]) -> None:
        """Wait for something, but no longer than anybody wants to hear of this attempt."""
        waiting = asyncio.ensure_future(work)
        while not waiting.done() and not self._silent:
            await asyncio.wait({waiting}, timeout=1.0)
        if not waiting.done():
            waiting.cancel()

    async def clean_up(self) -> None:
        """Give everything back, after the end was reported."""
        await self._events.close()
        await self.mail.close()
        await self._ops.close()
        await self._server.stop()
        if self._layer is not None:
            self._shop.layers.release(self._layer)
            self._layer = None
        with contextlib.suppress(UnroutableError):
            await self._shop.bus.publish(QPU_BROKER, ProgramEnded(self.spec.job_id, self.spec.attempt))
        await self._pump.close(0 if self._silent else _LOG_GIVE_UP_S)
        if self._pumping is not None:
            self._pumping.cancel()
        await self._room.remove()

    async def _unless_stopped(self, work: Coroutine[None, None, None]) -> None:
        """Do something, unless the attempt is told to end first: then raise StoppedError."""
        working = asyncio.ensure_future(work)
        told = asyncio.create_task(self._stop_told.wait())
        try:
            await asyncio.wait({working, told}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
                return
        finally:
            told.cancel()
        working.cancel()
        await asyncio.wait({working})
        raise StoppedError
