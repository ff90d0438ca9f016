"""What can go wrong, one class per case that somebody handles.

StorageError
├── RequestError            the call itself is malformed
│   ├── FileNameError       a file name breaks the rules
│   ├── FileContentError    a file's content breaks the rules
│   ├── DigestError         the bytes are not what the caller said (CutOffError: fewer of them)
│   └── TooLargeError       over a limit of this service
├── MissingError            no such blob (MissingFileError: no such file)
├── DamagedError            stored bytes are no longer what they were (DamagedFileError: of a file)
├── DiskFullError           no room; a retry helps once there is some
├── DiskFailedError         the disk is read-only, or broken
├── QuotaError              no room in a space; a retry helps once files are deleted
├── IdleError               an upload that stopped sending
├── UploadLostError         an upload that cannot go on where it broke off; it can start anew
├── StaleAttemptError       a log's writer was replaced by a newer attempt
├── LogGapError             a log's writer left bytes out
├── StoreUnavailableError   the object store does not answer, or refuses; a retry may help
├── StoppingError           the service stops; a retry helps in a moment
├── UnauthenticatedError    no ticket, or one that does not verify
└── ForbiddenError          a good ticket for something else
"""

from __future__ import annotations

from typing import ClassVar


class StorageError(Exception):
    """Something that the storage service refuses or cannot do; the text says what to do."""

    reason: ClassVar[str] = "STORAGE_ERROR"


class RequestError(StorageError):
    """A call that makes no sense, whatever is stored."""

    reason = "INVALID_REQUEST"

    def __init__(self, text: str, *, field: str = "") -> None:
        super().__init__(text)
        self.field = field


class FileNameError(RequestError):
    """A file name that breaks the rules."""

    reason = "INVALID_FILE_NAME"


class FileContentError(RequestError):
    """A file whose content is not what its name says."""

    reason = "INVALID_FILE_CONTENT"


class DigestError(RequestError):
    """The bytes that arrived are not those that the caller announced; a retry may help."""

    reason = "DIGEST_MISMATCH"


class CutOffError(DigestError):
    """Fewer bytes arrived than the caller announced: also how a broken connection may look."""


class TooLargeError(RequestError):
    """More bytes than this service takes at once."""

    reason = "TOO_LARGE"


class MissingError(StorageError):
    """No such blob."""

    reason = "BLOB_NOT_FOUND"


class MissingFileError(MissingError):
    """No such file in that space."""

    reason = "FILE_NOT_FOUND"


class DamagedError(StorageError):
    """A blob's bytes are no longer what they were when they were stored."""

    reason = "BLOB_DAMAGED"


class DamagedFileError(DamagedError):
    """A file's bytes are no longer what they were when they were stored."""

    reason = "FILE_DAMAGED"


class DiskFullError(StorageError):
    """There is no room; a retry helps once there is some."""

    reason = "DISK_FULL"


class DiskFailedError(StorageError):
    """The disk cannot be written to; an operator must look at it."""

    reason = "DISK_FAILED"


class QuotaError(StorageError):
    """A space may not hold as much; a retry helps once files are deleted or the limit is raised."""

    reason = "QUOTA_EXCEEDED"

    def __init__(self, text: str, **numbers: int) -> None:
        super().__init__(text)
        self.numbers = numbers
        """`needed_bytes`, `used_bytes`, `promised_bytes`, `limit_bytes`."""


class IdleError(StorageError):
    """An upload that sent nothing for too long; a retry helps."""

    reason = "UPLOAD_IDLE"


class UploadLostError(StorageError):
    """What came of an upload before is not here any more; a retry asks again, and starts anew."""

    reason = "UPLOAD_LOST"


class StaleAttemptError(StorageError):
    """The log is written by a newer attempt; this writer must stop."""

    reason = "STALE_ATTEMPT"


class LogGapError(StorageError):
    """Bytes are missing before this piece; the writer must send again from ``expected_offset``."""

    reason = "LOG_GAP"

    def __init__(self, text: str, *, expected_offset: int) -> None:
        super().__init__(text)
        self.expected_offset = expected_offset


class StoreUnavailableError(StorageError):
    """The object store behind this service does not answer, or refuses; a retry may help."""

    reason = "STORE_UNAVAILABLE"


class StoppingError(StorageError):
    """The service stops; a retry helps in a moment."""

    reason = "STOPPING"


class UnauthenticatedError(StorageError):
    """There is no ticket, or it does not verify."""

    reason = "UNAUTHENTICATED"


class ForbiddenError(StorageError):
    """The ticket is good, but for something else."""

    reason = "PERMISSION_DENIED"
