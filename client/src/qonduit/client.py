"""The client: functions, jobs and files of one user on one server."""

from __future__ import annotations

import contextlib
import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from qonduit import artifact
from qonduit.configuration import Configuration
from qonduit.exceptions import ArtifactTooLargeError, NotAvailableError
from qonduit.file_space import FileSpace, ServerFileSpace, SpaceUsage, StoredFile, describe_local, save
from qonduit.functions import QiskitFunction, RunnableQiskitFunction
from qonduit.job import Job
from qonduit.progress import transfer
from qonduit.settings import Target, find_target, inside_program, known_target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from os import PathLike
    from types import TracebackType

    from qonduit.cluster import Cluster
    from qonduit.connection import Connection
    from qonduit.function_calls import FunctionCalls
    from qonduit.job_calls import JobCalls
    from qonduit.qpus import Qpus

_ASK_FOR_LIMIT_BYTES = 8 * 1024**2
"""Smaller artifacts are below any server's limit, so that nobody is asked."""
_Jobs = list[Job]
_Names = list[str]
"""Inside of the class, `list` is the method of that name."""
_AnyFunction = QiskitFunction | RunnableQiskitFunction | str


class ServerlessClient:
    """Functions, jobs and files of one user on one server.

    Without arguments the server is found as `qonduit.settings` tells: QONDUIT_ADDRESS and QONDUIT_TOKEN, or
    the profile that `qonduit up` wrote. Nothing is sent before the first call. Inside a program the client
    knows the user's files (through the program's worker, so it needs neither address nor token, and ignores
    them) and nothing else.

    Args:
        host: Address of the server: "host:port", "http://host:port", or "https://host:port".
        version: Taken and ignored, as are `instance` and `channel`: other servers need them.
        token: The user's token.
        instance: See `version`.
        channel: See `version`.

    Raises:
        ConfigurationError: No server or no token is known.
    """

    def __init__(
        self,
        host: str | None = None,
        version: str | None = None,
        token: str | None = None,
        instance: str | None = None,
        channel: str | None = None,
    ) -> None:
        del version, instance, channel
        self._target = None if inside_program() else self._find_target(host, token)

    @staticmethod
    def _find_target(host: str | None, token: str | None) -> Target:
        return find_target(host, token)

    # --- Functions -----------------------------------------------------------------------------

    def upload(self, program: QiskitFunction) -> RunnableQiskitFunction:
        """Upload a function; the same content again changes nothing.

        Raises:
            InvalidFunctionError: Something is wrong with it; the text says what.
            ArtifactTooLargeError: The text names the largest files.
        """
        folder = Path(program.working_dir)
        members = artifact.list_members(folder)
        entrypoint = artifact.check_entrypoint(program.entrypoint, folder, members)
        total = sum(member.size_bytes for member in members)
        if total > _ASK_FOR_LIMIT_BYTES and (limit := self.function_calls.artifact_limit_bytes()) and total > limit:
            raise artifact.too_large(members, folder, limit)
        packed = artifact.build(members)
        with packed.file:
            try:
                uploaded = self.function_calls.upload(program, entrypoint, packed)
            except ArtifactTooLargeError:
                raise artifact.too_large(members, folder, 0) from None
        return self._runnable(uploaded)

    def list(self, *, limit: int | None = None) -> list[RunnableQiskitFunction]:
        """Return the user's functions, newest upload first; all of them unless there is a limit."""
        return [self._runnable(function) for function in self.function_calls.list_functions(limit)]

    functions = list  # noqa: A003 - The two names that users know.

    def get(self, title: str, provider: str | None = None, *, version: str = "") -> RunnableQiskitFunction:
        """Return a function.

        Args:
            title: Its title.
            provider: Taken and ignored: functions belong to users here.
            version: An alias, or a version's digest, or 8 digits of it or more; otherwise the latest. As title,
                "title@version" is the same.

        Raises:
            FunctionNotFoundError: There is none.
            InvalidRequestError: The version is neither an alias nor a digest.
        """
        del provider
        return self._runnable(self.function_calls.get(title, version))

    function = get

    # --- Jobs ----------------------------------------------------------------------------------

    def run(
        self,
        program: _AnyFunction,
        arguments: Mapping[str, Any] | None = None,
        config: Configuration | None = None,
        *,
        idempotency_key: str = "",
    ) -> Job:
        """Start a job of a function.

        Args:
            program: The function, or its title, or "title@alias", or "title@digest".
            arguments: Its arguments by name.
            config: What the job asks for.
            idempotency_key: Calls with the same key start one job; otherwise each call starts its own.

        Raises:
            NotSerializableError: An argument cannot be written as JSON; the text says which.
            FunctionNotFoundError: There is no such function.
            InvalidRequestError: The arguments do not fit the function's schema; the text says where.
            TypeError: `config` is no Configuration.
        """
        if config is not None and not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, and is a {type(config).__name__}.")
        pinned = isinstance(program, RunnableQiskitFunction) and program.pinned
        version = program.version if pinned and isinstance(program, RunnableQiskitFunction) else ""
        snapshot = self.job_calls.run(_title(program), version, dict(arguments or {}), config, idempotency_key)
        return Job(snapshot.job_id, self, snapshot)

    def job(self, job_id: str) -> Job:
        """Return a job; JobNotFoundError if there is none, or it is somebody else's."""
        return Job(job_id, self, self.job_calls.get(job_id))

    def jobs(
        self,
        function: _AnyFunction | None = None,
        *,
        limit: int = 10,
        status: str | None = None,
        created_after: datetime | None = None,
    ) -> _Jobs:
        """Return the user's jobs, newest first.

        Args:
            function: Only jobs of this function.
            limit: Most to return.
            status: Only jobs with this status: "RUNNING", "DONE", ...
            created_after: Only jobs accepted at or after this time.
        """
        title = _title(function) if function else ""
        found = self.job_calls.list_jobs(title, status or "", created_after, limit)
        return [Job(snapshot.job_id, self, snapshot) for snapshot in found]

    # --- Files ---------------------------------------------------------------------------------
    # Each of these takes a function, as users know it, and needs none: a user has one space.

    def files(self, function: _AnyFunction | None = None) -> _Names:
        """Return the names of the user's files."""
        del function
        return [file.name for file in self.file_space.list_files()]

    def file_usage(self) -> SpaceUsage:
        """Return how many files the user has, what they have together, and what they may have."""
        return self.file_space.usage()

    def file_upload(
        self,
        file: str | PathLike[str],
        function: _AnyFunction | None = None,
        *,
        name: str | None = None,
        progress: bool | None = None,
    ) -> str:
        """Store a tar or an h5 file; programs find it as /data/<its name>.

        Args:
            file: A local path.
            function: Taken and ignored: a user's functions share one space.
            name: What to call it, if not by its own name.
            progress: Whether to show a bar; by default in terminals and notebooks, for large files.

        Returns:
            A message with the path that programs see, as JSON.

        Raises:
            FileNotFoundError: There is no such local file.
            InvalidFileError: Its name or its content is not allowed.
            QuotaExceededError: There is no room for it; the text has the numbers, and nothing was sent.
        """
        del function
        described = describe_local(Path(file), name)
        with transfer(described.name, described.size_bytes, shown=progress) as tell:
            self.file_space.upload(Path(file), described, tell)
        return json.dumps({"message": f"/data/{described.name}"})

    def file_download(
        self,
        file: str,
        function: _AnyFunction | None = None,
        target_name: str | None = None,
        download_location: str | PathLike[str] = "./",
        *,
        overwrite: bool = False,
        progress: bool | None = None,
    ) -> str:
        """Fetch a file, check it, and return the path where it is now.

        It appears there whole and in one step.

        Args:
            file: Its name in the space.
            function: Taken and ignored, as in `file_upload`.
            target_name: What to call it here; by default `downloaded_<part of its digest>_<its name>`.
            download_location: A local folder, made if it is missing.
            overwrite: Replace another file of that name.
            progress: Whether to show a bar; by default in terminals and notebooks, for large files.

        Raises:
            FileExistsError: Another file of that name is there, with other content, and `overwrite` is not set.
            StoredFileNotFoundError: There is no such file in the space.
            TransferDamagedError: It did not arrive as it was stored; nothing was written.
        """
        del function

        def show(found: StoredFile) -> contextlib.AbstractContextManager[Callable[[int], None]]:
            return transfer(found.name, found.size_bytes, shown=progress)

        with contextlib.closing(self.file_space.download(file)) as parts:
            return str(save(parts, Path(download_location), target_name, overwrite=overwrite, show=show))

    def file_delete(self, file: str, function: _AnyFunction | None = None) -> str:
        """Delete a file and say so; StoredFileNotFoundError if there is none."""
        del function
        self.file_space.delete(file)
        return "Requested file was deleted."

    # --- The connection ------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection, if there is one."""
        if "connection" in self.__dict__:
            self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "inside a program" if self._target is None else self._target.address
        return f"<{type(self).__name__} {where}>"

    @cached_property
    def connection(self) -> Connection:
        """The connection to the server; NotAvailableError inside a program."""
        if self._target is None:
            raise NotAvailableError(
                "Inside a program the client knows the user's files and nothing else: files(), file_upload(), "
                "file_download() and file_delete(). Functions and jobs are for programs that run elsewhere."
            )
        from qonduit.connection import Connection  # noqa: PLC0415 - gRPC is slow to load and not always needed.

        return Connection(self._target)

    @cached_property
    def function_calls(self) -> FunctionCalls:
        """What the server is asked about functions."""
        connection = self.connection
        from qonduit.function_calls import FunctionCalls  # noqa: PLC0415 - As above.

        return FunctionCalls(connection)

    @cached_property
    def job_calls(self) -> JobCalls:
        """The calls that `Job` makes."""
        connection = self.connection
        from qonduit.job_calls import JobCalls  # noqa: PLC0415 - As above.

        return JobCalls(connection)

    @cached_property
    def cluster(self) -> Cluster:
        """Workers, the queue, users: what is behind the server."""
        connection = self.connection
        from qonduit.cluster import Cluster  # noqa: PLC0415 - As above.

        return Cluster(connection)

    @cached_property
    def qpu(self) -> Qpus:
        """Devices, and the user's own QPU jobs and sessions."""
        connection = self.connection
        from qonduit.qpus import Qpus  # noqa: PLC0415 - As above.

        return Qpus(connection)

    @cached_property
    def file_space(self) -> FileSpace:
        """Where the files are: on the server, or behind the program's agent."""
        if self._target is None:
            from qonduit.program_files import ProgramFileSpace  # noqa: PLC0415 - Only inside programs.

            return ProgramFileSpace()
        return ServerFileSpace(self.connection)

    def _runnable(self, function: RunnableQiskitFunction) -> RunnableQiskitFunction:
        object.__setattr__(function, "client", self)
        return function


class IBMServerlessClient(ServerlessClient):
    """The same client, for code that was written for IBM's service.

    `token` is an IBM API key in such code, which is no token of ours. So whatever the environment or a profile
    names wins: the server and the token that `qonduit up` wrote. Only if nothing is known there, `host`
    and `token` are used as in `ServerlessClient`.

    Args:
        token: See above.
        name: Taken and ignored, as are `instance` and `channel`.
        instance: See `name`.
        channel: See `name`.
        host: Address of the server, if neither environment nor profile names one.

    Raises:
        ConfigurationError: No server or no token is known.
    """

    def __init__(
        self,
        token: str | None = None,
        name: str | None = None,
        instance: str | None = None,
        channel: str | None = None,
        *,
        host: str | None = None,
    ) -> None:
        del name
        super().__init__(host=host, token=token, instance=instance, channel=channel)

    @staticmethod
    def _find_target(host: str | None, token: str | None) -> Target:
        return known_target() or find_target(host, token)


def _title(function: _AnyFunction) -> str:
    return function if isinstance(function, str) else function.title
