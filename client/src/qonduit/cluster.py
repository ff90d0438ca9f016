"""The cluster as its users and operators see it: workers, the queue, users, dead letters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING

from qonduit_api.v1 import cluster_pb2 as pb

if TYPE_CHECKING:
    from datetime import datetime

    from google.protobuf.timestamp_pb2 import Timestamp
    from qonduit_api.v1.types_pb2 import Resources

    from qonduit.connection import Connection


@dataclass(frozen=True, slots=True)
class Room:
    """Cores, bytes of memory, and GPUs."""

    cpu: float
    mem_bytes: int
    gpus: int


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Who the caller is there, and what the server is."""

    user: str
    administrator: bool
    version: str
    artifact_limit_bytes: int


@dataclass(frozen=True, slots=True)
class Worker:
    """A machine that runs programs."""

    worker_id: str
    hostname: str
    capacity: Room
    free: Room
    leases: int
    draining: bool
    sandbox_tier: str
    seen: datetime


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that waits for room."""

    position: int
    job_id: str
    """Empty when it is somebody else's."""
    kind: str
    count: int
    room: Room
    why: str


@dataclass(frozen=True, slots=True)
class User:
    """A user."""

    name: str
    administrator: bool
    created: datetime


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that no service could handle."""

    dead_letter_id: int
    queue: str
    type: str
    reason: str
    size_bytes: int
    time: datetime
    replayed: bool


class Cluster:
    """The cluster behind one server. Every call raises QonduitError, as those of the client do."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def info(self) -> ServerInfo:
        """Return who the caller is, and the server's version."""
        answer = self._connection.call(lambda to: to.cluster.GetInfo, pb.GetInfoRequest())
        return ServerInfo(answer.user, answer.administrator, answer.version, answer.artifact_limit_bytes)

    def workers(self) -> list[Worker]:
        """Return the workers by id."""
        answer = self._connection.call(lambda to: to.cluster.ListWorkers, pb.ListWorkersRequest())
        return [
            Worker(
                worker.worker_id,
                worker.hostname,
                _room(worker.capacity),
                _room(worker.free),
                worker.leases,
                worker.draining,
                worker.sandbox_tier,
                _utc(worker.seen_time),
            )
            for worker in answer.workers
        ]

    def queue(self) -> list[Waiting]:
        """Return what waits for room, in the order in which it would get it."""
        answer = self._connection.call(lambda to: to.cluster.GetQueue, pb.GetQueueRequest())
        return [
            Waiting(entry.position, entry.job_id, entry.kind, entry.count, _room(entry.resources), entry.why)
            for entry in answer.entries
        ]

    def users(self) -> list[User]:
        """Return the users by name; for administrators."""
        answer = self._connection.call(lambda to: to.cluster.ListUsers, pb.ListUsersRequest())
        return [User(user.name, user.administrator, _utc(user.create_time)) for user in answer.users]

    def add_user(self, name: str, *, administrator: bool = False) -> str:
        """Make a user and return their token, which is shown only now; for administrators."""
        request = pb.CreateUserRequest(name=name, administrator=administrator)
        return self._connection.call(lambda to: to.cluster.CreateUser, request, idempotent=False).token

    def dead_letters(self, limit: int) -> list[DeadLetter]:
        """Return the newest dead letters; for administrators."""
        found: list[DeadLetter] = []
        token = ""
        while len(found) < limit:
            request = pb.ListDeadLettersRequest(page_size=min(limit - len(found), 100), page_token=token)
            page = self._connection.call(lambda to: to.cluster.ListDeadLetters, request)
            found += [_dead_letter(letter) for letter in page.dead_letters]
            token = page.next_page_token
            if not token:
                break
        return found

    def replay(self, dead_letter_id: int) -> None:
        """Send a dead letter to its queue again; for administrators."""
        request = pb.ReplayDeadLetterRequest(dead_letter_id=dead_letter_id)
        self._connection.call(lambda to: to.cluster.ReplayDeadLetter, request, idempotent=False)


def _dead_letter(letter: pb.DeadLetter) -> DeadLetter:
    return DeadLetter(
        letter.dead_letter_id,
        letter.queue,
        letter.type,
        letter.reason,
        letter.size_bytes,
        _utc(letter.time),
        letter.replayed,
    )


def _room(resources: Resources) -> Room:
    return Room(resources.cpu_millis / 1000, resources.mem_bytes, resources.gpus)


def _utc(moment: Timestamp) -> datetime:
    return moment.ToDatetime(tzinfo=UTC)
