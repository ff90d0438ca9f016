"""The client: functions, jobs and files of one user on one server."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from qonduit import artifact
from qonduit.client_files import ClientFiles
from qonduit.configuration import Configuration
from qonduit.exceptions import ArtifactTooLargeError, NotAvailableError
from qonduit.file_space import FileSpace, ServerFileSpace
from qonduit.functions import AnyFunction, QiskitFunction, RunnableQiskitFunction, full_name, name_of
from qonduit.job import Job, ProviderJob
from qonduit.settings import Target, find_target, inside_program, known_target

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from types import TracebackType

    from qonduit.cluster import Cluster
    from qonduit.connection import Connection
    from qonduit.function_calls import FunctionCalls
    from qonduit.job_calls import JobCalls
    from qonduit.providers import Providers
    from qonduit.qpus import Qpus

_ASK_FOR_LIMIT_BYTES = 8 * 1024**2
"""Smaller artifacts are below any server's limit, so that nobody is asked."""
_Jobs = list[Job]
"""Inside of the class, `list` is the method of that name."""


class ServerlessClient(ClientFiles):
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

    def list(
        self, *, limit: int | None = None, whose: str = "own", provider: str | None = None
    ) -> list[RunnableQiskitFunction]:
        """Return functions, newest upload first.

        Args:
            limit: Most to return; all of them without it.
            whose: "own", "providers" for those of providers that the user may see, or "all".
            provider: Only those of this provider.
        """
        found = self.function_calls.list_functions(limit, whose, provider)
        return [self._runnable(function) for function in found]

    functions = list  # noqa: A003 - The two names that users know.

    def get(self, title: str, provider: str | None = None, *, version: str = "") -> RunnableQiskitFunction:
        """Return a function.

        Args:
            title: Its title, or "provider/title".
            provider: The provider whose function it is, if the title does not say it.
            version: An alias, or a version's digest, or 8 digits of it or more; otherwise the latest. As title,
                "title@version" is the same.

        Raises:
            FunctionNotFoundError: There is none that the user may see.
            InvalidRequestError: The version is neither an alias nor a digest.
        """
        return self._runnable(self.function_calls.get(full_name(title, provider), version))

    function = get

    # --- Jobs ----------------------------------------------------------------------------------

    def run(
        self,
        program: AnyFunction,
        arguments: Mapping[str, Any] | None = None,
        config: Configuration | None = None,
        *,
        idempotency_key: str = "",
    ) -> Job:
        """Start a job of a function.

        Args:
            program: The function, or its title or "provider/title", to which "@alias" or "@digest" may be added.
            arguments: Its arguments by name.
            config: What the job asks for.
            idempotency_key: Calls with the same key start one job; otherwise each call starts its own.

        Raises:
            NotSerializableError: An argument cannot be written as JSON; the text says which.
            FunctionNotFoundError: There is no such function that the user may see.
            RoleMissingError: They may see and not run it.
            FunctionDisabledError: Its provider accepts no jobs of it; the text says why.
            InvalidRequestError: The arguments do not fit the function's schema; the text says where.
            TypeError: `config` is no Configuration.
        """
        if config is not None and not isinstance(config, Configuration):
            raise TypeError(f"config must be a Configuration, and is a {type(config).__name__}.")
        pinned = isinstance(program, RunnableQiskitFunction) and program.pinned
        version = program.version if pinned and isinstance(program, RunnableQiskitFunction) else ""
        snapshot = self.job_calls.run(name_of(program), version, dict(arguments or {}), config, idempotency_key)
        return Job(snapshot.job_id, self, snapshot)

    def job(self, job_id: str) -> Job:
        """Return a job; JobNotFoundError if there is none, or it is somebody else's."""
        return Job(job_id, self, self.job_calls.get(job_id))

    def jobs(
        self,
        function: AnyFunction | None = None,
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
        name = name_of(function) if function else ""
        found = self.job_calls.list_jobs(name, status or "", created_after, limit)
        return [Job(snapshot.job_id, self, snapshot) for snapshot in found]

    def provider_jobs(
        self,
        function: AnyFunction,
        *,
        limit: int = 10,
        status: str | None = None,
        created_after: datetime | None = None,
    ) -> _Jobs:
        """Return the jobs of a provider's function, whoever runs them, newest first; args are those of `jobs`.

        Of each it is told what is no matter of its user alone.

        Raises:
            FunctionNotFoundError: There is no such function that the user may see.
            RoleMissingError: They may not see its jobs.
        """
        found = self.job_calls.list_provider_jobs(name_of(function), status or "", created_after, limit)
        return [ProviderJob(self, snapshot) for snapshot in found]

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
    def providers(self) -> Providers:
        """Providers, what they grant to whom, groups, and who did what."""
        connection = self.connection
        from qonduit.providers import Providers  # noqa: PLC0415 - As above.

        return Providers(connection)

    def space_of(self, function: AnyFunction | None = None, *, of_provider: bool = False) -> FileSpace:
        """Return where files are: on the server, or behind the program's agent, which knows the program's own space."""
        if self._target is None and not of_provider:
            from qonduit.program_files import ProgramFileSpace  # noqa: PLC0415 - Only inside programs.

            return ProgramFileSpace()
        name = name_of(function) if function else ""
        return ServerFileSpace(self.connection, name, of_provider=of_provider)

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
