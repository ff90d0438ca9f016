"""ClusterService."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
from qonduit_api.v1 import cluster_pb2, cluster_pb2_grpc
from qonduit_service_kit.bus import UnroutableError
from qonduit_service_kit.errors import ApiError

from qonduit_gateway import __version__
from qonduit_gateway.api import convert, paging, user_limits
from qonduit_gateway.api.callers import administrator, caller, token_digest
from qonduit_gateway.database import dead_letter_rows, job_rows, user_rows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from qonduit_service_kit.messages import Shape
    from sqlalchemy import Connection

    from qonduit_gateway.cluster_view import ClusterView
    from qonduit_gateway.database.dead_letter_rows import DeadLetter
    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.database.user_rows import User
    from qonduit_gateway.dead_letter_box import DeadLetterBox
    from qonduit_gateway.worker_orders import WorkerOrders

_TOKEN_BYTES = 32
# A name is also the name of a folder of files: it begins with a letter or digit, so it is never "..".
_USER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")


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
        user_changed: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._workers = workers
        self._default_limit = default_limit
        self._default_qpu_seconds = default_qpu_seconds
        self._default_file_bytes = default_file_bytes
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
        del context
        administrator()
        if not _USER_NAME.fullmatch(request.name):
            text = "Use 1 to 64 letters, digits, '_', '-', '.' or '@', beginning with a letter or digit."
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_USER_NAME", text, violations={"name": text})
        token, now = secrets.token_urlsafe(_TOKEN_BYTES), self._clock()
        made = await self._database.write(
            lambda connection: user_rows.create(
                connection,
                request.name,
                administrator=request.administrator,
                token_digest=token_digest(token),
                at=now,
            )
        )
        if not made:
            text = f"There is a user {request.name!r} already. Choose another name."
            raise ApiError(grpc.StatusCode.ALREADY_EXISTS, "USER_EXISTS", text, metadata={"name": request.name})
        return cluster_pb2.CreateUserResponse(token=token)

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
        """Set how much the tasks of one of a user's jobs may hold together, and what the user may use and keep."""
        del context
        administrator()
        user_limits.check(request)
        name = request.name

        def write(connection: Connection) -> User | None:
            return user_rows.change_limit(connection, name, lambda before: user_limits.changed(before, request))

        user = await self._database.write(write)
        if user is None:
            text = f"There is no user {name[:100]!r}. List the users to see which there are."
            raise ApiError(grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND", text, metadata={"name": name[:100]})
        self._user_changed()
        return cluster_pb2.SetUserLimitResponse(user=self._user(user))

    def _user(self, user: User) -> cluster_pb2.User:
        return cluster_pb2.User(
            name=user.name,
            administrator=user.administrator,
            create_time=convert.timestamp(user.created_at),
            limit=convert.resources(user.limit.over(self._default_limit)),
            qpu_seconds_limit=user.limit.qpu_seconds_over(self._default_qpu_seconds),
            file_bytes_limit=user.limit.file_bytes_over(self._default_file_bytes),
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
