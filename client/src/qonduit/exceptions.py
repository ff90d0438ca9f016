"""Everything that Qonduit raises on a user's side.

QonduitError                      (also called QiskitServerlessException)
+-- ConfigurationError            no server or token is known, or a setting makes no sense
+-- InvalidFunctionError          a function cannot be uploaded as it is
|   +-- ArtifactTooLargeError
+-- NotSerializableError          an argument or a result cannot be written as JSON
+-- NotAvailableError             the call makes no sense here (inside a program, or outside one)
+-- JobError                      what `Job.result` raises
|   +-- JobFailedError            the job ended with ERROR
|   |   +-- ProgramError          its program raised, or exited with a code other than 0
|   |   +-- OutOfMemoryError
|   |   +-- JobTimeoutError       it ran past its time limit
|   |   +-- JobKilledError        a signal ended its program
|   |   +-- UnschedulableError    no worker could ever hold it
|   |   +-- WorkerLostError       its workers were lost again and again
|   |   +-- QpuError
|   |   +-- DependencyError
|   |   +-- ResultNotSerializableError
|   +-- JobCanceledError
|   +-- ResultTimeoutError        `timeout` passed; the job goes on
|   +-- JobNotDoneError           the result was asked for too early, without waiting
+-- ServerError                   what a server answered
    +-- ServerUnavailableError    nobody answers at the address
    +-- DeadlineExceededError
    +-- AuthenticationError       no token, or a wrong one
    +-- AccessDeniedError
    |   +-- RoleMissingError      what is a provider's may be seen, and not this be done with it
    +-- InvalidRequestError
    |   +-- InvalidFileError
    |   +-- TransferDamagedError
    +-- NotFoundError
    |   +-- FunctionNotFoundError, JobNotFoundError, StoredFileNotFoundError, BackendNotFoundError
    |   +-- QpuJobNotFoundError, QpuSessionNotFoundError
    |   +-- ProviderNotFoundError, GrantNotFoundError
    +-- ConflictError
    |   +-- QpuJobOverError
    |   +-- FunctionDisabledError its provider accepts no jobs of it, and says why
    +-- LimitExceededError
    |   +-- FileTooLargeError, DiskFullError, QuotaExceededError
    |   +-- ActiveJobLimitError   the user has as many jobs as they may
    +-- ServerFaultError          a fault of the server
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping


class QonduitError(Exception):
    """Something went wrong."""

    retryable: ClassVar[bool] = False
    """Whether the same call may succeed a little later."""

    def __init__(self, text: str | None = None) -> None:
        super().__init__(text or type(self).__doc__)


QiskitServerlessException = QonduitError


class ConfigurationError(QonduitError):
    """No server is known. Start one with `qonduit up`, or set QONDUIT_ADDRESS and QONDUIT_TOKEN."""


class InvalidFunctionError(QonduitError):
    """The function cannot be uploaded as it is."""


class ArtifactTooLargeError(InvalidFunctionError):
    """The function's folder is larger than the server takes."""


class NotSerializableError(QonduitError, TypeError):
    """A value cannot be written as JSON."""


class NotAvailableError(QonduitError):
    """This call makes no sense here."""


# --- Jobs --------------------------------------------------------------------------------------


class JobError(QonduitError):
    """The job has no result."""

    def __init__(self, text: str | None = None, *, job_id: str = "") -> None:
        super().__init__(text)
        self.job_id = job_id


class JobFailedError(JobError):
    """The job ended with ERROR."""

    def __init__(self, text: str | None = None, *, job_id: str = "", reason: str = "") -> None:
        super().__init__(text, job_id=job_id)
        self.reason = reason


class ProgramError(JobFailedError):
    """The program raised, or exited with a code other than 0."""


class OutOfMemoryError(JobFailedError):
    """The program used more memory than it asked for."""


class JobTimeoutError(JobFailedError):
    """The program ran past its time limit."""


class JobKilledError(JobFailedError):
    """A signal ended the program."""


class UnschedulableError(JobFailedError):
    """No worker could ever hold the job."""


class WorkerLostError(JobFailedError):
    """The job's workers were lost more often than a job may be tried."""

    retryable = True


class QpuError(JobFailedError):
    """A QPU job failed and the program did not handle it."""


class DependencyError(JobFailedError):
    """A dependency of the function is not available."""


class ResultNotSerializableError(JobFailedError):
    """save_result got a value that cannot be written as JSON."""


class JobCanceledError(JobError):
    """The job was canceled."""


class ResultTimeoutError(JobError, TimeoutError):
    """The job was not over in time; it goes on."""

    retryable = True


class JobNotDoneError(JobError):
    """The job is not over yet."""

    retryable = True


# --- Servers -----------------------------------------------------------------------------------


class ServerError(QonduitError):
    """The server refused or could not do what it was asked.

    `reason` is stable and in UPPER_SNAKE, `violations` maps fields of the request to what is wrong with them.
    """

    def __init__(
        self,
        text: str | None = None,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(text)
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = dict(violations or {})


class ServerUnavailableError(ServerError):
    """Nobody answers at the server's address."""

    retryable = True


class DeadlineExceededError(ServerError, TimeoutError):
    """The server took too long to answer."""

    retryable = True


class AuthenticationError(ServerError):
    """The server does not know this token."""


class AccessDeniedError(ServerError):
    """This needs rights that the user does not have."""


class RoleMissingError(AccessDeniedError):
    """What is a provider's may be seen, but not this be done with it; the provider's admins grant roles."""


class InvalidRequestError(ServerError, ValueError):
    """The server did not accept a value."""


class InvalidFileError(InvalidRequestError):
    """The file's name or content is not allowed: tar and h5 files with flat names are."""


class UnsafeArchiveError(QonduitError, ValueError):
    """An archive holds what is not unpacked: links, devices, names outside of the folder."""


class TransferDamagedError(InvalidRequestError):
    """The bytes that arrived are not those that were sent."""

    retryable = True


class NotFoundError(ServerError, LookupError):
    """It does not exist, or belongs to somebody else."""


class FunctionNotFoundError(NotFoundError):
    """There is no such function."""


class JobNotFoundError(NotFoundError):
    """There is no such job."""


class StoredFileNotFoundError(NotFoundError):
    """There is no such file in the user's space."""


class BackendNotFoundError(NotFoundError):
    """There is no such QPU."""


class QpuJobNotFoundError(NotFoundError):
    """There is no such QPU job."""


class QpuSessionNotFoundError(NotFoundError):
    """There is no such session or batch."""


class ProviderNotFoundError(NotFoundError):
    """There is no such provider, or nothing of it may be seen."""


class GrantNotFoundError(NotFoundError):
    """The role is not granted to whom it was to be taken from."""


class ConflictError(ServerError):
    """It contradicts what is there already."""


class QpuJobOverError(ConflictError):
    """The QPU job has ended."""


class FunctionDisabledError(ConflictError):
    """The function accepts no jobs for now; the text has what its provider says."""


class LimitExceededError(ServerError):
    """It goes beyond a limit of the server."""


class QuotaExceededError(LimitExceededError):
    """The user's files would have more bytes than they may; nothing was sent."""


class ActiveJobLimitError(LimitExceededError):
    """The user has as many jobs that are not over as they may: once one ends, the next is accepted."""

    retryable = True

    @property
    def limit(self) -> int:
        """How many jobs of the user may not be over at a time."""
        return int(self.metadata.get("limit", 0))

    @property
    def active(self) -> int:
        """How many were not over."""
        return int(self.metadata.get("active", 0))


class FileTooLargeError(LimitExceededError):
    """The file is larger than the server takes."""


class DiskFullError(LimitExceededError):
    """The server has no room left."""


class ServerFaultError(ServerError):
    """The server failed; its log says why."""

    retryable = True
