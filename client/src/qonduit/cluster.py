"""The cluster as its users and operators see it: workers, the queue, users, dead letters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING

from qonduit_api.v1 import cluster_pb2 as pb

from qonduit.connection import TRANSFER_TIMEOUT_S
from qonduit.exceptions import ServerUnavailableError
from qonduit.tokens import new_token_of, token_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from google.protobuf.timestamp_pb2 import Timestamp
    from qonduit_api.v1.types_pb2 import Resources

    from qonduit.connection import Connection
    from qonduit.tokens import NewToken, Token


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
    """Whether it takes nothing new."""
    sandbox_tier: str
    seen: datetime

    @property
    def state(self) -> str:
        """Return "open", "draining" while leases are in force there, or "drained"."""
        if not self.draining:
            return "open"
        return "draining" if self.leases else "drained"

    @property
    def used(self) -> Room:
        """What is leased of the capacity."""
        return Room(
            self.capacity.cpu - self.free.cpu,
            self.capacity.mem_bytes - self.free.mem_bytes,
            self.capacity.gpus - self.free.gpus,
        )


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that waits for room."""

    position: int
    job_id: str
    """Empty when it is somebody else's and the caller no administrator; so are `user` and `why`."""
    kind: str
    """"driver" (a job's program) or "executor" (for its tasks)."""
    count: int
    room: Room
    why: str
    user: str
    since: datetime | None
    """When it began to wait, as far as the scheduler has said."""


@dataclass(frozen=True, slots=True)
class User:
    """A user."""

    name: str
    administrator: bool
    created: datetime
    limit: Room
    """The most that the tasks of one of their jobs may hold together."""
    qpu_seconds_limit: float = 0.0
    """Most QPU seconds that they may use in any 28 days; 0 for no limit."""
    file_bytes_limit: int = 0
    """Most bytes that their files may have together; 0 for no limit."""
    active_jobs_limit: int = 0
    """Most of their jobs that may not be over at a time; 0 for no limit."""
    running_jobs_limit: int = 0
    """Most of their jobs that may have a place on a worker at a time, while the others wait; 0 for no limit."""
    time_limit_s: float = 0.0
    """Longest time limit that their runs may ask for; 0 where the server is too old to say."""
    disabled: bool = False
    """Whether they are shut out."""
    disabled_text: str = ""
    """Why, if they are; may be empty."""


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
        return [_worker(worker) for worker in answer.workers]

    def watch_workers(self) -> Iterator[list[Worker]]:
        """Yield the workers now and whenever something about them changes, for ever; told, not polled.

        It goes on after a restart of the server.
        """
        backoff = self._connection.backoff()
        while True:
            gone = ServerUnavailableError("The server ended its answers about the workers.")
            try:
                watched = self._connection.receive(
                    lambda to: to.cluster.WatchWorkers, pb.WatchWorkersRequest(), timeout_s=None
                )
                for answer in watched:
                    backoff = self._connection.backoff()
                    yield [_worker(worker) for worker in answer.workers]
            except ServerUnavailableError as error:
                gone = error
            if not backoff.wait():
                raise gone

    def drain(self, worker_id: str) -> None:
        """Have a worker take nothing new; what runs there goes on. It keeps to it over restarts. For administrators.

        Raises:
            NotFoundError: No worker has this name; the text names those that there are.
        """
        request = pb.DrainWorkerRequest(worker_id=worker_id)
        self._connection.call(lambda to: to.cluster.DrainWorker, request)

    def until_drained(self, worker_id: str) -> Iterator[Worker]:
        """Yield a worker whenever something about it changes, until nothing runs there, or it is gone."""
        known = False
        for workers in self.watch_workers():
            found = next((worker for worker in workers if worker.worker_id == worker_id), None)
            if found is not None:
                known = True
                yield found
            if (known and found is None) or (found is not None and found.state == "drained"):
                return

    def resume(self, worker_id: str) -> None:
        """Have a worker that drains take work again; for administrators. Errors as for `drain`."""
        request = pb.ResumeWorkerRequest(worker_id=worker_id)
        self._connection.call(lambda to: to.cluster.ResumeWorker, request)

    def queue(self) -> list[Waiting]:
        """Return what waits for room, in the order in which it would get it."""
        answer = self._connection.call(lambda to: to.cluster.GetQueue, pb.GetQueueRequest())
        return [
            Waiting(
                entry.position,
                entry.job_id,
                entry.kind,
                entry.count,
                _room(entry.resources),
                entry.why,
                entry.user,
                _utc(entry.since) if entry.HasField("since") else None,
            )
            for entry in answer.entries
        ]

    def users(self) -> list[User]:
        """Return the users by name; for administrators."""
        answer = self._connection.call(lambda to: to.cluster.ListUsers, pb.ListUsersRequest())
        return [_user(user) for user in answer.users]

    def set_limit(
        self,
        name: str,
        *,
        cpu: float | None = None,
        mem_bytes: int | None = None,
        gpus: int | None = None,
        qpu_seconds: float | None = None,
        file_bytes: int | None = None,
        active_jobs: int | None = None,
        running_jobs: int | None = None,
        time_limit_s: float | None = None,
        reset: bool = False,
    ) -> User:
        """Set what a user's jobs may hold and use, and their files may have, and return the user; for administrators.

        For jobs it holds as soon as they are accepted, or tried again, from then on; for files at once, except in
        jobs that run already; how many jobs may run at once, at once for those that wait.

        Args:
            name: The user.
            cpu: Cores that the tasks of each job hold together; may be fractional. What is not given stays as it is.
            mem_bytes: Memory that they hold together.
            gpus: GPUs that they hold together.
            qpu_seconds: QPU seconds that the user may use in any 28 days; 0 for no limit.
            file_bytes: Bytes that the user's files may have together; 0 for no limit.
            active_jobs: Jobs of the user that may not be over at a time, beyond which a run is refused; 0 for no limit.
            running_jobs: Jobs of the user that may run at a time, while the others wait; 0 for no limit.
            time_limit_s: Longest time limit, in seconds, that a run may ask for.
            reset: Go back to the server's limit first.

        Raises:
            NotFoundError: There is no such user.
            InvalidRequestError: The limit can't be meant; the text says why.
        """
        request = pb.SetUserLimitRequest(
            name=name,
            cpu_millis=None if cpu is None else round(cpu * 1000),
            mem_bytes=mem_bytes,
            gpus=gpus,
            qpu_seconds=qpu_seconds,
            file_bytes=file_bytes,
            active_jobs=active_jobs,
            running_jobs=running_jobs,
            time_limit_seconds=time_limit_s,
            reset=reset,
        )
        return _user(self._connection.call(lambda to: to.cluster.SetUserLimit, request).user)

    def add_user(self, name: str, *, administrator: bool = False) -> str:
        """Make a user and return their token, which is shown only now; for administrators."""
        request = pb.CreateUserRequest(name=name, administrator=administrator)
        return self._connection.call(lambda to: to.cluster.CreateUser, request, idempotent=False).token

    def make_token(self, name: str = "", *, label: str = "", replace: bool = False) -> NewToken:
        """Make another token.

        Args:
            name: Whose; empty for the caller's own. Another's is for administrators.
            label: What it is for.
            replace: Withdraw all others of the user in the same moment, as when one of them may have leaked.

        Raises:
            NotFoundError: There is no such user.
            InvalidRequestError: The label can't be one.
            LimitExceededError: The user has as many tokens as they may.
        """
        request = pb.CreateTokenRequest(name=name, label=label, replace=replace)
        return new_token_of(self._connection.call(lambda to: to.cluster.CreateToken, request, idempotent=False))

    def tokens(self, name: str = "") -> list[Token]:
        """Return a user's tokens, oldest first; the caller's own without a name. Another's are for administrators."""
        answer = self._connection.call(lambda to: to.cluster.ListTokens, pb.ListTokensRequest(name=name))
        return [token_of(token) for token in answer.tokens]

    def withdraw_token(self, token_id: str, name: str = "") -> None:
        """Withdraw a token, by the id that `tokens` lists; of the caller's own without a name.

        It is refused from then on. What was begun with it, such as a followed log, ends within seconds.

        Raises:
            NotFoundError: There is no such user, or they have no such token.
            ConflictError: It is the caller's last one, or the one in the server's file.
        """
        request = pb.WithdrawTokenRequest(name=name, token_id=token_id)
        self._connection.call(lambda to: to.cluster.WithdrawToken, request)

    def disable(self, name: str, reason: str = "", *, cancel_jobs: bool = False) -> int:
        """Shut a user out, and return how many of their jobs were canceled; for administrators.

        Their jobs go on unless they are to be canceled. What they began, such as a followed log, ends within seconds.

        Raises:
            NotFoundError: There is no such user.
            ConflictError: It is the caller.
        """
        request = pb.DisableUserRequest(name=name, text=reason, cancel_jobs=cancel_jobs)
        answer = self._connection.call(lambda to: to.cluster.DisableUser, request, timeout_s=TRANSFER_TIMEOUT_S)
        return answer.canceled_jobs

    def enable(self, name: str) -> None:
        """Let a user in again, with the tokens that they have; for administrators."""
        self._connection.call(lambda to: to.cluster.EnableUser, pb.EnableUserRequest(name=name))

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


def _worker(worker: pb.Worker) -> Worker:
    return Worker(
        worker.worker_id,
        worker.hostname,
        _room(worker.capacity),
        _room(worker.free),
        worker.leases,
        worker.draining,
        worker.sandbox_tier,
        _utc(worker.seen_time),
    )


def _user(user: pb.User) -> User:
    return User(
        user.name,
        user.administrator,
        _utc(user.create_time),
        _room(user.limit),
        user.qpu_seconds_limit,
        user.file_bytes_limit,
        user.active_jobs_limit,
        user.running_jobs_limit,
        user.time_limit_seconds_limit,
        user.disabled,
        user.disabled_text,
    )


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
