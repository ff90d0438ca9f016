"""Accepts jobs: from a RunRequest to a row in the book."""

from __future__ import annotations

import time
import uuid
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
from qonduit_service_kit import tracing
from qonduit_service_kit.errors import ApiError

from qonduit_gateway.api import run_requests
from qonduit_gateway.api.callers import user_disabled
from qonduit_gateway.api.function_catalog import runnable
from qonduit_gateway.database.idempotency_rows import Claim
from qonduit_gateway.functions import schema
from qonduit_gateway.functions.schema_process import ARGUMENTS_BYTES
from qonduit_gateway.jobs.model import Program, Submission, space_of
from qonduit_gateway.ledger import ActiveJobLimitError, KeyReusedError, UserDisabledError
from qonduit_gateway.providers.access import Action

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit_api.v1 import jobs_pb2
    from qonduit_service_kit.messages import Shape
    from sqlalchemy import Connection

    from qonduit_gateway.api.function_catalog import FunctionCatalog
    from qonduit_gateway.api.run_requests import RunLimits
    from qonduit_gateway.database.user_rows import User
    from qonduit_gateway.functions.model import FunctionVersion
    from qonduit_gateway.functions.schema_process import SchemaProcess
    from qonduit_gateway.jobs.model import Job
    from qonduit_gateway.ledger import JobLedger
    from qonduit_gateway.storage_client import StorageClient


class _UncheckedError(Exception):
    """A version is to be checked, or a refusal to be worded, either of which takes longer than a transaction may."""

    def __init__(self, version: FunctionVersion | None = None) -> None:
        super().__init__()
        self.version = version
        """None where nothing can run."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A run as it was asked for, once its arguments are stored."""

    user: User
    request: jobs_pb2.RunRequest
    job_id: str
    shape: Shape
    time_limit_s: float
    qpu_budget_s: float | None
    files: tuple[str, ...] | None
    arguments_digest: str
    at: float
    traceparent: str = field(default_factory=tracing.current)
    checked: set[int] = field(default_factory=set)
    """Versions that were found to take these arguments and files."""

    def submission(self, connection: Connection) -> Submission:
        """Return it with what the function's name stands for."""
        request = self.request
        found = runnable(connection, self.user.name, request.function_title, request.function_version)
        if found is None:
            raise _UncheckedError
        version = found.version
        if (version.spec.arguments_schema or self.files) and version.version_id not in self.checked:
            raise _UncheckedError(version)
        return Submission(
            job_id=self.job_id,
            owner=self.user.name,
            program=_program(version),
            arguments_digest=self.arguments_digest,
            shape=self.shape,
            time_limit_s=self.time_limit_s,
            priority=request.priority,
            created_at=self.at,
            limit=self.user.limit,
            qpu_budget_s=self.qpu_budget_s,
            files=self.files,
            traceparent=self.traceparent,
            trial=found.access.trial,
        )


@dataclass(frozen=True, slots=True)
class JobIntake:
    """What it takes to accept a job."""

    ledger: JobLedger
    catalog: FunctionCatalog
    storage: StorageClient
    schemas: SchemaProcess
    limits: RunLimits
    clock: Callable[[], float] = time.time

    async def run(self, user: User, request: jobs_pb2.RunRequest) -> tuple[Job, bool]:
        """Accept a job and tell whether it is new; ApiError says what is wrong with the request."""
        key = run_requests.key_of(request)
        claim = Claim(user.name, key, run_requests.request_hash(request), str(uuid.uuid4())) if key else None
        try:
            return await self._accept(user, request, claim)
        except ApiError:
            # A repeat of what was accepted gives that job, whatever became of its function, its files, its user's
            # limits or the right to run it.
            if claim is not None and (accepted := await self.ledger.accepted(claim)) is not None:
                return accepted, False
            raise

    async def _accept(self, user: User, request: jobs_pb2.RunRequest, claim: Claim | None) -> tuple[Job, bool]:
        shape = run_requests.shape_of(request, self.limits)
        time_limit_s = run_requests.time_limit_of(request, self.limits, user)
        qpu_budget_s = run_requests.qpu_budget_of(request)
        files = run_requests.files_of(request)
        arguments = run_requests.arguments_of(request)
        # The arguments are durable before the job is: whoever sees the job can read them.
        digest = await self._stored(request.arguments_digest, arguments)
        job_id = claim.job_id if claim else str(uuid.uuid4())
        asked = _Asked(user, request, job_id, shape, time_limit_s, qpu_budget_s, files, digest, self.clock())
        while True:
            try:
                return await self._submit(asked, claim)
            except _UncheckedError as error:
                # By the time it is looked up again, the name may stand for another version: that is checked, too.
                await self._check(asked, error.version, arguments)
                # Checks wait for those of others: storage may not have kept the arguments for so long.
                await self._stored(request.arguments_digest, arguments)

    async def _submit(self, asked: _Asked, claim: Claim | None) -> tuple[Job, bool]:
        user = asked.user.name
        try:
            # The function is looked up in the transaction that accepts the job: one before it would cost as much.
            return await self.ledger.submit(asked.submission, claim)
        except ActiveJobLimitError as error:
            jobs = "1 job that is" if error.active == 1 else f"{error.active:,} jobs that are"
            text = (
                f"{user} has {jobs} not over, and may have {error.most:,}. "
                "Wait until one ends, cancel one, or ask an administrator for more "
                f"(`qonduit users limit {user} --active-jobs N`)."
            )
            metadata = {"active": str(error.active), "limit": str(error.most)}
            raise ApiError(grpc.StatusCode.RESOURCE_EXHAUSTED, "ACTIVE_JOB_LIMIT", text, metadata=metadata) from error
        except UserDisabledError as error:
            raise user_disabled(user, str(error)) from error
        except KeyReusedError as error:
            key = asked.request.idempotency_key
            text = (
                f"The idempotency key {key!r} was used for another request (job {error}). "
                "Use a new key for a new job, or repeat the request exactly."
            )
            metadata = {"idempotency_key": key, "job_id": str(error)}
            raise ApiError(grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED", text, metadata=metadata) from error

    async def _check(self, asked: _Asked, version: FunctionVersion | None, arguments: bytes | None) -> None:
        """Note that a version takes what is asked of it; ApiError where it does not, or there is none to run."""
        if version is None:
            request = asked.request
            found = await self.catalog.find(
                asked.user.name, request.function_title, request.function_version, Action.RUN
            )
            version = found.version  # It has just become one.
        if version.spec.arguments_schema:
            await self._check_arguments(version, asked.arguments_digest, arguments)
        space = space_of(asked.user.name, version.name.provider, version.name.title)
        for name in asked.files or ():
            await self.storage.check_file(asked.user.name, space, name)
        asked.checked.add(version.version_id)

    async def check(self, user: User, title: str, arguments: bytes) -> None:
        """Raise ApiError unless a run of a function with these arguments would be accepted, as far as they go."""
        run_requests.check_arguments(arguments)
        version = (await self.catalog.find(user.name, title, action=Action.RUN)).version
        if version.spec.arguments_schema:
            await self._check_arguments(version, "", arguments)

    async def _check_arguments(self, version: FunctionVersion, digest: str, arguments: bytes | None) -> None:
        """Raise ApiError unless the arguments are as the function says that they must be."""
        if arguments is None:
            async with aclosing(self.storage.blob(digest)) as chunks:
                arguments = await schema.json_of(chunks, ARGUMENTS_BYTES)
        try:
            await self.schemas.check(version.spec.arguments_schema, arguments)
        except schema.ArgumentsError as error:
            text = f"The arguments do not fit what {version.spec.title!r} takes: {error}."
            raise ApiError(
                grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENTS", text, violations=error.violations
            ) from error

    async def _stored(self, digest: str, arguments: bytes | None) -> str:
        if arguments is not None:
            return await self.storage.put_bytes(arguments)
        if await self.storage.blob_size(digest) is None:
            text = f"There are no arguments with the digest {digest}. Store them with UploadArguments first."
            raise ApiError(
                grpc.StatusCode.FAILED_PRECONDITION, "ARGUMENTS_NOT_FOUND", text, metadata={"digest": digest}
            )
        return digest


def _program(version: FunctionVersion) -> Program:
    return Program(
        version_id=version.version_id,
        title=version.spec.title,
        version=version.version,
        artifact_digest=version.artifact_digest,
        entrypoint=version.spec.entrypoint,
        dependencies=version.spec.dependencies,
        environment=version.spec.environment,
        provider=version.name.provider,
    )
