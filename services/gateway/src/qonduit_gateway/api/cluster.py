"""ClusterService."""

from __future__ import annotations

import re
import secrets
import time
from typing import TYPE_CHECKING, Any

import grpc
from qonduit_api.v1 import cluster_pb2, cluster_pb2_grpc
from qonduit_service_kit.bus import UnroutableError
from qonduit_service_kit.errors import ApiError

from qonduit_gateway import __version__
from qonduit_gateway.api import convert, paging
from qonduit_gateway.api.callers import administrator, caller, token_digest
from qonduit_gateway.database import dead_letter_rows, job_rows, user_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit_gateway.cluster_view import ClusterView
    from qonduit_gateway.database.dead_letter_rows import DeadLetter
    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.dead_letter_box import DeadLetterBox

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
        *,
        artifact_limit_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
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
        workers = [
            cluster_pb2.Worker(
                worker_id=view.worker_id,
                hostname=view.hostname,
                capacity=convert.resources(view.capacity),
                free=convert.resources(view.free),
                leases=view.leases,
                draining=view.draining,
                sandbox_tier=view.sandbox_tier,
                seen_time=convert.timestamp(view.seen_at),
            )
            for view in self._cluster.workers
        ]
        return cluster_pb2.ListWorkersResponse(workers=workers)

    async def GetQueue(  # noqa: N802
        self, request: cluster_pb2.GetQueueRequest, context: Any
    ) -> cluster_pb2.GetQueueResponse:
        """List what waits; of other users' jobs only the shape is shown."""
        del request, context
        waiting, owner = self._cluster.waiting, caller().name
        ids = [view.job_id for view in waiting]
        mine = await self._database.read(lambda connection: job_rows.owned(connection, owner, ids))
        entries = [
            cluster_pb2.QueueEntry(
                job_id=view.job_id if view.job_id in mine else "",
                kind=view.kind.value.lower(),
                resources=convert.resources(view.shape),
                count=view.count,
                position=view.position,
                why=view.why if view.job_id in mine else "",
            )
            for view in waiting
        ]
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
        return cluster_pb2.ListUsersResponse(
            users=[
                cluster_pb2.User(
                    name=user.name,
                    administrator=user.administrator,
                    create_time=convert.timestamp(user.created_at),
                )
                for user in users
            ]
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
