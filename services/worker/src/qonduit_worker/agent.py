"""The agent: takes grants, runs drivers and executors, and tells the scheduler the whole truth about itself."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.bus import Delivery, RejectMessage, UnroutableError, worker_inbox
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import (
    SCHEDULER,
    BlobReady,
    BlobWanted,
    DemandRefused,
    DriverGranted,
    EventKind,
    ExecutorGranted,
    ExecutorLost,
    ExecutorOutput,
    LeaseEnded,
    LeaseRevoked,
    QpuReply,
    QpuTransition,
    Reason,
    SchedulerElected,
    StopAttempt,
    TaskReplies,
    TaskRequests,
    TaskResults,
    TasksCanceled,
    TasksTaken,
    WorkerDrain,
    WorkerStopped,
    worker,
)

from qonduit_worker import metrics
from qonduit_worker.belonging import belonging
from qonduit_worker.drain import DrainOrder
from qonduit_worker.driver import Driver
from qonduit_worker.driver_ops import Reconnected
from qonduit_worker.events import EventOutbox
from qonduit_worker.executor import Executor
from qonduit_worker.heart import Heart
from qonduit_worker.leases import Admission, LeaseTable

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from qonduit_service_kit.bus import Subscription
    from qonduit_service_kit.messages import Shape

    from qonduit_worker.tasks import Give
    from qonduit_worker.workshop import Workshop

_RETRY_S: Final = 1.0
_STOP_S: Final = 4.0
_HOMES: Final = 10_000
"""Attempts whose driver's worker is remembered: more than a worker ever serves at a time."""

_log = get_logger(__name__)


class Agent:
    """Everything that this worker does for the scheduler. A part: start and stop."""

    def __init__(self, workshop: Workshop, *, sandbox_tier: str) -> None:
        self._shop = workshop
        self._leases = LeaseTable(uuid.uuid4().hex)
        self._drain_order = DrainOrder(workshop.settings.data_dir / "drain.json")
        self._leases.draining = self._drain_order.draining
        self._drivers: dict[str, Driver] = {}
        self._executors: dict[str, Executor] = {}
        self._homes: OrderedDict[tuple[str, int], str] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._heart = Heart(
            workshop,
            self._leases,
            sandbox_tier=sandbox_tier,
            refresh=self._refresh,
            fence=self.fence,
            reconnected=self._tell_reconnected,
        )
        self._subscription: Subscription | None = None

    # --- Start and stop ------------------------------------------------------------------------

    async def start(self) -> None:
        """Take grants from now on."""
        # What waits there for an earlier life is refused: grants name the life they are for.
        self._subscription = await self._shop.bus.consume(worker_inbox(self._shop.worker_id), self._receive)
        await self._heart.start()

    async def stop(self) -> None:
        """End everything that runs and say goodbye; safe to call twice."""
        subscription, self._subscription = self._subscription, None
        if subscription is None:
            return
        await subscription.cancel()
        await self._heart.stop()
        incarnation = self._leases.incarnation
        self._end_all()
        # No lease is told to have ended: of a driver that would mean that its job is over, and not to be queued again.
        self._leases.begin_anew(uuid.uuid4().hex)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOP_S)
        if not self._shop.bus.connected:
            return  # Nobody can hear it; the scheduler misses the heartbeats instead.
        with contextlib.suppress(UnroutableError, TimeoutError):
            goodbye = WorkerStopped(self._shop.worker_id, incarnation)
            await asyncio.wait_for(self._shop.bus.publish(SCHEDULER, goodbye), _STOP_S)

    async def fence(self, why: str) -> None:
        """End all that runs and begin a new life: others may have been given its leases meanwhile."""
        _log.error("fenced_off", reason=why, leases=len(self._leases))
        metrics.FENCINGS.inc()
        self._end_all()
        self._drivers.clear()
        self._executors.clear()
        self._leases.begin_anew(uuid.uuid4().hex)
        self._heart.changed()

    async def _tell_reconnected(self) -> None:
        """RabbitMQ was away: what it kept in memory alone may be gone."""
        for driver in list(self._drivers.values()):
            await driver.mail.put(Reconnected())
        self._heart.changed()

    def _end_all(self) -> None:
        for driver in list(self._drivers.values()):
            driver.stop(Reason.WORKER_LOST, grace_s=0.0, silent=True)
        for executor in list(self._executors.values()):
            executor.kill()

    # --- Messages ------------------------------------------------------------------------------

    async def _receive(self, delivery: Delivery) -> None:
        """Handle one message; each may come twice, late, or for something that is over."""
        match delivery.message:
            case DriverGranted() | ExecutorGranted() as grant:
                await self._take(grant)
            case LeaseRevoked() as revoked:
                self._revoke(revoked)
            case StopAttempt() as stop:
                self._stop_attempt(stop)
            case SchedulerElected(term=term):
                self._leases.saw_term(term)
                self._heart.changed()
                for driver in list(self._drivers.values()):
                    await driver.mail.put(delivery.message)
            case WorkerDrain() as order:
                self._drain(order)
            case QpuReply() | QpuTransition() as told:
                await self._tell_qpu(told)
            case message:
                self._tell_tasks(message)

    async def _tell_qpu(self, message: QpuReply | QpuTransition) -> None:
        if isinstance(message, QpuTransition):
            await self._pass_on(message)
            return
        for driver in list(self._drivers.values()):
            await driver.mail.put(message)
        for executor in list(self._executors.values()):
            await executor.mail.put(message)

    def _tell_tasks(self, message: object) -> None:
        """Hand a message about tasks and their values to whom it is for, if that is still here."""
        match message:
            case TasksTaken() | TaskReplies() | ExecutorOutput() | TaskRequests():
                self._tell_driver(message.job_id, message.job_attempt, message)
            case ExecutorLost() | DemandRefused():
                self._tell_driver(message.job_id, message.attempt, message)
            case TasksCanceled() | TaskResults():
                executor = self._executors.get(message.lease_id)
                if executor is not None:
                    executor.tell(message)
            case BlobReady():
                self._shop.exchange.take(message)
            case BlobWanted():
                self._spawn(self._shop.exchange.bring(message))
            case _:
                raise RejectMessage(f"a worker has no use for {type(message).__name__}")

    def _tell_driver(self, job_id: str, attempt: int, message: object) -> None:
        for driver in self._drivers.values():
            if (driver.spec.job_id, driver.spec.attempt) == (job_id, attempt):
                driver.tell_tasks(message)

    async def _post(self, worker_id: str, message: object) -> None:
        """Bring a message about tasks to a worker's agent: over RabbitMQ, unless that is this one."""
        if worker_id == self._shop.worker_id:
            self._tell_tasks(message)
            return
        try:
            await self._shop.bus.publish(worker(worker_id), message)
        except UnroutableError:
            # That worker is gone for good, and what it ran with it: nobody waits for this.
            _log.info("worker_gone", worker=worker_id, message=type(message).__name__)

    def _idle_executor(self, job_id: str, attempt: int, shape: Shape) -> Give | None:
        wanted = (job_id, attempt, shape)
        for executor in self._executors.values():
            grant = executor.grant
            if (grant.job_id, grant.attempt, grant.shape) == wanted and (give := executor.give_if_idle()) is not None:
                return give
        return None

    async def _pass_on(self, transition: QpuTransition) -> None:
        job_id, attempt = transition.job_id, transition.attempt
        for driver in list(self._drivers.values()):
            if (driver.spec.job_id, driver.spec.attempt) == (job_id, attempt):
                await driver.mail.put(transition)
        for executor in list(self._executors.values()):
            if (executor.grant.job_id, executor.grant.attempt) == (job_id, attempt):
                await executor.mail.put(transition)
        await self._tell_home(transition)

    async def _tell_home(self, transition: QpuTransition) -> None:
        """Pass a step of a task's QPU job on to the driver's worker, also when the executor that began it is gone.

        It may change the job's stage, and its QPU seconds belong on the job's bill. What comes twice is dropped there.
        """
        home = self._homes.get((transition.job_id, transition.attempt), self._shop.worker_id)
        if home != self._shop.worker_id:
            with contextlib.suppress(UnroutableError):  # That worker is gone for good, and the attempt with it.
                await self._shop.bus.publish(worker(home), transition)

    async def _take(self, grant: DriverGranted | ExecutorGranted) -> None:
        admission = self._leases.admit(grant)
        metrics.GRANTS.labels(admission.name).inc()
        if admission is not Admission.ACCEPTED:
            _log.info("grant_not_taken", lease=grant.lease_id, term=grant.term, reason=admission.value)
        match grant, admission:
            case DriverGranted(), Admission.ACCEPTED:
                self._spawn(belonging(grant, self._shop.worker_id, self._drive(grant)))
            case ExecutorGranted(), Admission.ACCEPTED:
                self._homes[grant.job_id, grant.attempt] = grant.driver_worker_id
                while len(self._homes) > _HOMES:
                    self._homes.popitem(last=False)
                self._spawn(belonging(grant, self._shop.worker_id, self._execute(grant)))
            case _, Admission.ATTEMPT_STOPPED:
                self._spawn(self._refuse_stopped(grant))
            case _, Admission.DRAINING:
                self._spawn(self._refuse_draining(grant.lease_id))
            case _, Admission.ATTEMPT_TAKEN:
                self._spawn(self._tell_ended(grant.lease_id, admission.value))
        self._heart.changed()

    def _drain(self, order: WorkerDrain) -> None:
        """Take nothing new from now on, or take leases again; what runs goes on either way."""
        if self._drain_order.take(order):
            self._leases.draining = self._drain_order.draining
            _log.info("draining" if order.draining else "open_again", leases=len(self._leases))
        self._heart.changed()

    def _stop_attempt(self, stop: StopAttempt) -> None:
        """End an attempt; one that is not here yet may not begin, and of one that is over nothing is left to do."""
        self._leases.stop(stop.job_id, stop.attempt, stop.cause)
        for driver in list(self._drivers.values()):
            if driver.spec.job_id == stop.job_id and driver.spec.attempt <= stop.attempt:
                stale = stop.cause is Reason.WORKER_LOST or driver.spec.attempt < stop.attempt
                driver.stop(stop.cause, grace_s=stop.grace_s, silent=stale)
        for executor in list(self._executors.values()):
            if executor.grant.job_id == stop.job_id and executor.grant.attempt <= stop.attempt:
                executor.kill()

    def _revoke(self, revoked: LeaseRevoked) -> None:
        if revoked.term < self._leases.term:
            return
        self._leases.saw_term(revoked.term)
        driver = self._drivers.get(revoked.lease_id)
        executor = self._executors.get(revoked.lease_id)
        if driver is not None:
            driver.stop(Reason.WORKER_LOST, grace_s=0.0, silent=True)
        elif executor is not None:
            self._spawn(executor.revoke(now=revoked.now))
        else:
            # It is over, or never came: the scheduler should know.
            self._leases.end(revoked.lease_id)
            self._spawn(self._tell_ended(revoked.lease_id, "unknown to the worker"))

    # --- Leases --------------------------------------------------------------------------------

    async def _drive(self, grant: DriverGranted) -> None:
        try:
            driver = Driver(grant, self._shop, self._post, self._idle_executor)
        except OSError as error:
            _log.error("driver_refused", job=grant.spec.job_id, reason=str(error))
            await asyncio.sleep(_RETRY_S)
            await self._end_lease(grant.lease_id, f"no place for it here: {error}", refused=True)
            return
        self._drivers[grant.lease_id] = driver
        try:
            cause = await driver.run()
        finally:
            self._drivers.pop(grant.lease_id, None)
        await self._end_lease(grant.lease_id, cause)
        await driver.clean_up()

    async def _execute(self, grant: ExecutorGranted) -> None:
        try:
            executor = Executor(grant, self._shop, self._post)
        except OSError as error:
            _log.error("executor_refused", job=grant.job_id, reason=str(error))
            await asyncio.sleep(_RETRY_S)
            await self._end_lease(grant.lease_id, f"no place for it here: {error}", refused=True)
            return
        self._executors[grant.lease_id] = executor
        cause = "it failed"
        try:
            cause = await executor.run()
        except Exception as error:  # noqa: BLE001 - Whatever it was, the lease must end and be told.
            _log.exception("executor_failed", lease=grant.lease_id, job=grant.job_id)
            cause = f"it could not be started: {error}"
            await asyncio.sleep(_RETRY_S)  # The scheduler may grant it again at once; not in a circle without end.
        finally:
            self._executors.pop(grant.lease_id, None)
        await self._end_lease(grant.lease_id, cause)
        await executor.clean_up()

    async def _refuse_stopped(self, grant: DriverGranted | ExecutorGranted) -> None:
        """Answer a grant whose attempt was canceled before it came: a cancel beats a placement."""
        if isinstance(grant, DriverGranted) and self._leases.stop_cause(grant.spec.job_id) is Reason.CANCELED:
            spec = grant.spec
            events = EventOutbox(
                self._shop.bus, job_id=spec.job_id, attempt=spec.attempt, worker_id=self._shop.worker_id
            )
            events.emit(EventKind.FINISHED, reason=Reason.CANCELED, text="The job was canceled before it began.")
            await events.flush()
            await events.close()
        await self._tell_ended(grant.lease_id, Admission.ATTEMPT_STOPPED.value)

    async def _refuse_draining(self, lease_id: str) -> None:
        """Give back a grant that crossed with the order to drain."""
        # The heartbeat first: a scheduler that hears of the refusal must not grant it here again.
        await self._heart.beat()
        await self._tell_ended(lease_id, Admission.DRAINING.value, refused=True)

    async def _end_lease(self, lease_id: str, cause: str, *, refused: bool = False) -> None:
        # What was never begun may be granted here again; what was begun runs once, ever.
        if self._leases.give_up(lease_id) if refused else self._leases.end(lease_id):
            self._heart.changed()
            await self._tell_ended(lease_id, cause, refused=refused)

    async def _tell_ended(self, lease_id: str, cause: str, *, refused: bool = False) -> None:
        with contextlib.suppress(UnroutableError):
            await self._shop.bus.publish(SCHEDULER, LeaseEnded(self._shop.worker_id, lease_id, cause, refused))

    def _refresh(self) -> None:
        """Bring the leases up to date before they are told."""
        for lease_id, driver in self._drivers.items():
            if (lease := self._leases.get(lease_id)) is not None:
                lease.lends_cpu = driver.lends_cpu
        for lease_id, executor in self._executors.items():
            if (lease := self._leases.get(lease_id)) is not None:
                lease.idle_since, lease.lends_cpu = executor.idle_since, executor.lends_cpu

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("work_failed", exc_info=error, at=time.time())
