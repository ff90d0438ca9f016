"""ClusterService."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
from qonduit_api.v1 import cluster_pb2, cluster_pb2_grpc
from qonduit_service_kit.bus import UnroutableError
from qonduit_service_kit.errors import ApiError

from qonduit_gateway import __version__
from qonduit_gateway.api import convert, paging, user_limits
from qonduit_gateway.api.callers import administrator, caller, digest_of
from qonduit_gateway.api.user_changes import UserChanges, check_caller, user_not_found
from qonduit_gateway.database import dead_letter_rows, job_rows, outbox_rows, user_rows
from qonduit_gateway.jobs.transitions import Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from typing import TypeVar

    from qonduit_service_kit.messages import Shape
    from sqlalchemy import Connection

    from qonduit_gateway.cluster_view import ClusterView
    from qonduit_gateway.database.dead_letter_rows import DeadLetter
    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.database.user_rows import Token, User
    from qonduit_gateway.dead_letter_box import DeadLetterBox
    from qonduit_gateway.ledger import JobLedger
    from qonduit_gateway.outgoing import OutgoingFactory
    from qonduit_gateway.worker_orders import WorkerOrders

    T = TypeVar("T")

_CANCELS_AT_ONCE = 50


class ClusterService(cluster_pb2_grpc.ClusterServiceServicer):  # type: ignore[misc,unused-ignore]
    """Tells how the system is, and lets its operators look after it."""

    def __init__(
        self,
        database: Database,
        cluster: ClusterView,
        dead_letters: DeadLetterBox,
        workers: WorkerOrders,
        *,
        artifact_limit_bytes: int,
        default_limit: Shape,
        default_qpu_seconds: float,
        default_file_bytes: int,
        default_active_jobs: int,
        default_running_jobs: int,
        max_time_limit_s: float,
        ledger: JobLedger,
        outgoing: OutgoingFactory,
        user_changed: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._workers = workers
        self._default_limit = default_limit
        self._default_qpu_seconds = default_qpu_seconds
        self._default_file_bytes = default_file_bytes
        self._default_active_jobs = default_active_jobs
        self._default_running_jobs = default_running_jobs
        self._max_time_limit_s = max_time_limit_s
        self._ledger = ledger
        self._outgoing = outgoing
        self._user_changed = user_changed
        self._database = database
        self._cluster = cluster
        self._dead_letters = dead_letters
        self._artifact_limit_bytes = artifact_limit_bytes
        self._clock = clock

    async def GetInfo(  # noqa: N802 - named by the API.
        self, request: cluster_pb2.GetInfoRequest, context: Any
    ) -> cluster_pb2.GetInfoResponse:
        """Say who the caller is and what runs here."""
        del request, context
        user = caller()
        return cluster_pb2.GetInfoResponse(
            user=user.name,
            administrator=user.administrator,
            version=__version__,
            artifact_limit_bytes=self._artifact_limit_bytes,
        )

    async def ListWorkers(  # noqa: N802
        self, request: cluster_pb2.ListWorkersRequest, context: Any
    ) -> cluster_pb2.ListWorkersResponse:
        """List the workers as the scheduler sees them."""
        del request, context
        return cluster_pb2.ListWorkersResponse(workers=map(convert.worker, self._cluster.workers))

    async def WatchWorkers(  # noqa: N802
        self, request: cluster_pb2.WatchWorkersRequest, context: Any
    ) -> AsyncIterator[cluster_pb2.WatchWorkersResponse]:
        """Send the workers at once, and again when more is new than the time they were heard."""
        del request, context
        sent = None
        while True:
            next_report = self._cluster.next_report
            workers = self._cluster.workers
            unlike = [replace(view, seen_at=0.0) for view in workers]
            if unlike != sent:
                sent = unlike
                yield cluster_pb2.WatchWorkersResponse(workers=map(convert.worker, workers))
            await next_report.wait()

    async def DrainWorker(  # noqa: N802
        self, request: cluster_pb2.DrainWorkerRequest, context: Any
    ) -> cluster_pb2.DrainWorkerResponse:
        """Tell a worker to take nothing new."""
        del context
        administrator()
        await self._workers.drain(request.worker_id, draining=True)
        return cluster_pb2.DrainWorkerResponse()

    async def ResumeWorker(  # noqa: N802
        self, request: cluster_pb2.ResumeWorkerRequest, context: Any
    ) -> cluster_pb2.ResumeWorkerResponse:
        """Tell a worker to take work again."""
        del context
        administrator()
        await self._workers.drain(request.worker_id, draining=False)
        return cluster_pb2.ResumeWorkerResponse()

    async def GetQueue(  # noqa: N802
        self, request: cluster_pb2.GetQueueRequest, context: Any
    ) -> cluster_pb2.GetQueueResponse:
        """List what waits; of other users' jobs only the shape and the age are shown, except to administrators."""
        del request, context
        waiting, user = self._cluster.waiting, caller()
        ids = [view.job_id for view in waiting]
        mine = await self._database.read(lambda connection: job_rows.owned(connection, user.name, ids))
        entries = [convert.queue_entry(view, whole=user.administrator or view.job_id in mine) for view in waiting]
        return cluster_pb2.GetQueueResponse(entries=entries, total=self._cluster.waiting_total)

    async def ListDeadLetters(  # noqa: N802
        self, request: cluster_pb2.ListDeadLettersRequest, context: Any
    ) -> cluster_pb2.ListDeadLettersResponse:
        """List what could not be handled, newest first."""
        del context
        administrator()
        size = paging.page_size(request.page_size)
        before = paging.from_token(request.page_token, int)
        letters = await self._database.read(
            lambda connection: dead_letter_rows.page(connection, size=size, before=before)
        )
        listed = paging.fitting([_letter(letter) for letter in letters])
        more = len(letters) == size or len(listed) < len(letters)
        token = paging.to_token(letters[len(listed) - 1].number) if more else ""
        return cluster_pb2.ListDeadLettersResponse(dead_letters=listed, next_page_token=token)

    async def ReplayDeadLetter(  # noqa: N802
        self, request: cluster_pb2.ReplayDeadLetterRequest, context: Any
    ) -> cluster_pb2.ReplayDeadLetterResponse:
        """Send a dead letter to its queue again."""
        del context
        administrator()
        number = request.dead_letter_id
        letter = await self._database.read(lambda connection: dead_letter_rows.get(connection, number))
        if letter is None:
            text = f"There is no dead letter {number}. List them to see which there are."
            raise ApiError(grpc.StatusCode.NOT_FOUND, "DEAD_LETTER_NOT_FOUND", text)
        try:
            await self._dead_letters.replay(letter)
        except UnroutableError:
            text = f"The queue {letter.queue!r} is gone; the dead letter stays here."
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "QUEUE_GONE", text) from None
        return cluster_pb2.ReplayDeadLetterResponse()

    async def CreateUser(  # noqa: N802
        self, request: cluster_pb2.CreateUserRequest, context: Any
    ) -> cluster_pb2.CreateUserResponse:
        """Make a user and return their token, which is shown this once."""
        administrator()
        token = await self._change(
            context, lambda changes: changes.create(request.name, administrator=request.administrator)
        )
        return cluster_pb2.CreateUserResponse(token=token)

    async def CreateToken(  # noqa: N802
        self, request: cluster_pb2.CreateTokenRequest, context: Any
    ) -> cluster_pb2.CreateTokenResponse:
        """Make another token for a user and return it, which is shown this once."""
        name, label = _whose(request.name), request.label.strip()
        made = await self._change(context, lambda changes: changes.make_token(name, label, replace=request.replace))
        return cluster_pb2.CreateTokenResponse(
            token=made.text,
            listed=_token(made.kept),
            withdrawn=made.withdrawn,
            bootstrap_stays=made.bootstrap_stays,
        )

    async def ListTokens(  # noqa: N802
        self, request: cluster_pb2.ListTokensRequest, context: Any
    ) -> cluster_pb2.ListTokensResponse:
        """List a user's tokens."""
        del context
        name = _whose(request.name)

        def read(connection: Connection) -> list[Token]:
            if user_rows.find(connection, name) is None:
                raise user_not_found(name)
            return user_rows.tokens_of(connection, name)

        return cluster_pb2.ListTokensResponse(tokens=map(_token, await self._database.read(read)))

    async def WithdrawToken(  # noqa: N802
        self, request: cluster_pb2.WithdrawTokenRequest, context: Any
    ) -> cluster_pb2.WithdrawTokenResponse:
        """Withdraw a token of a user."""
        name = _whose(request.name)
        await self._change(context, lambda changes: changes.withdraw_token(name, request.token_id))
        return cluster_pb2.WithdrawTokenResponse()

    async def DisableUser(  # noqa: N802
        self, request: cluster_pb2.DisableUserRequest, context: Any
    ) -> cluster_pb2.DisableUserResponse:
        """Shut a user out, and cancel their jobs if asked to."""
        administrator()
        user, jobs = await self._change(context, lambda changes: changes.disable(request.name, request.text.strip()))
        canceled = await self._cancel(jobs) if request.cancel_jobs else 0
        return cluster_pb2.DisableUserResponse(user=self._user(user), canceled_jobs=canceled)

    async def EnableUser(  # noqa: N802
        self, request: cluster_pb2.EnableUserRequest, context: Any
    ) -> cluster_pb2.EnableUserResponse:
        """Let a user in again."""
        administrator()
        user = await self._change(context, lambda changes: changes.enable(request.name))
        return cluster_pb2.EnableUserResponse(user=self._user(user))

    async def ListUsers(  # noqa: N802
        self, request: cluster_pb2.ListUsersRequest, context: Any
    ) -> cluster_pb2.ListUsersResponse:
        """List the users by name."""
        del request, context
        administrator()
        users = await self._database.read(user_rows.all_users)
        return cluster_pb2.ListUsersResponse(users=[self._user(user) for user in users])

    async def SetUserLimit(  # noqa: N802
        self, request: cluster_pb2.SetUserLimitRequest, context: Any
    ) -> cluster_pb2.SetUserLimitResponse:
        """Set how many jobs a user may have, what the tasks of one may hold, and what the user may use and keep."""
        del context
        administrator()
        user_limits.check(request, max_time_limit_s=self._max_time_limit_s)
        name = request.name

        def write(connection: Connection) -> User | None:
            user = user_rows.change_limit(connection, name, lambda before: user_limits.changed(before, request))
            if user is not None and (request.reset or request.HasField("running_jobs")):
                outbox_rows.add(connection, [self._outgoing.user_limited(user)], at=self._clock())
            return user

        user = await self._database.write(write)
        if user is None:
            raise user_not_found(name)
        self._user_changed()
        return cluster_pb2.SetUserLimitResponse(user=self._user(user))

    async def _change(self, context: Any, change: Callable[[UserChanges], T]) -> T:
        actor, digest, now = caller().name, digest_of(context), self._clock()

        def write(connection: Connection) -> T:
            check_caller(connection, actor, digest)
            return change(UserChanges(connection, actor, now))

        try:
            return await self._database.write(write)
        finally:
            self._user_changed()  # Also where it can't be known whether it was.

    async def _cancel(self, job_ids: list[str]) -> int:
        """Cancel jobs, and return how many were neither over nor being canceled already."""
        canceled = 0
        for start in range(0, len(job_ids), _CANCELS_AT_ONCE):
            some = job_ids[start : start + _CANCELS_AT_ONCE]
            changes = await asyncio.gather(*map(self._ledger.cancel, some))
            canceled += sum(change is not None and change.verdict is Verdict.APPLIED for change in changes)
        return canceled

    def _user(self, user: User) -> cluster_pb2.User:
        return cluster_pb2.User(
            name=user.name,
            administrator=user.administrator,
            create_time=convert.timestamp(user.created_at),
            limit=convert.resources(user.limit.over(self._default_limit)),
            qpu_seconds_limit=user.limit.qpu_seconds_over(self._default_qpu_seconds),
            file_bytes_limit=user.limit.file_bytes_over(self._default_file_bytes),
            active_jobs_limit=user.limit.active_jobs_over(self._default_active_jobs),
            running_jobs_limit=user.limit.running_jobs_over(self._default_running_jobs),
            time_limit_seconds_limit=user.limit.time_limit_within(self._max_time_limit_s),
            disabled=user.disabled_text is not None,
            disabled_text=user.disabled_text or "",
        )


def _whose(name: str) -> str:
    """Return whose tokens are meant: the caller's own, or, for administrators, anybody's."""
    if name in {"", caller().name}:
        return caller().name
    administrator()
    return name


def _token(token: Token) -> cluster_pb2.UserToken:
    return cluster_pb2.UserToken(
        token_id=token.token_id, label=token.label, create_time=convert.timestamp(token.created_at)
    )


def _letter(letter: DeadLetter) -> cluster_pb2.DeadLetter:
    return cluster_pb2.DeadLetter(
        dead_letter_id=letter.number,
        queue=letter.queue,
        type=letter.type_name,
        reason=letter.reason,
        size_bytes=len(letter.body),
        time=convert.timestamp(letter.received_at),
        replayed=letter.replayed_at is not None,
    )
