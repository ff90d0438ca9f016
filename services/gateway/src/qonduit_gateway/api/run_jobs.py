"""Accepts jobs: from a RunRequest to a row in the book."""

from __future__ import annotations

import time
import uuid
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from qonduit_service_kit import tracing
from qonduit_service_kit.errors import ApiError

from qonduit_gateway.api import run_requests
from qonduit_gateway.api.callers import user_disabled
from qonduit_gateway.database.idempotency_rows import Claim
from qonduit_gateway.functions import schema
from qonduit_gateway.functions.schema_process import ARGUMENTS_BYTES
from qonduit_gateway.jobs.model import Program, Submission, space_of
from qonduit_gateway.ledger import ActiveJobLimitError, KeyReusedError, UserDisabledError
from qonduit_gateway.providers.access import Action

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit_api.v1 import jobs_pb2

    from qonduit_gateway.api.function_catalog import Found, FunctionCatalog
    from qonduit_gateway.api.run_requests import RunLimits
    from qonduit_gateway.database.user_rows import User
    from qonduit_gateway.functions.model import FunctionVersion
    from qonduit_gateway.functions.schema_process import SchemaProcess
    from qonduit_gateway.jobs.model import Job
    from qonduit_gateway.ledger import JobLedger
    from qonduit_gateway.storage_client import StorageClient


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
            submission = await self._submission(user, request, claim)
        except ApiError:
            # A repeat of what was accepted gives that job, whatever became of its function, its files, its user's
            # limits or the right to run it.
            if claim is not None and (accepted := await self.ledger.accepted(claim)) is not None:
                return accepted, False
            raise
        return await self._submit(submission, claim, key)

    async def _submission(self, user: User, request: jobs_pb2.RunRequest, claim: Claim | None) -> Submission:
        """Return what is asked for, once its arguments are stored; ApiError says what is wrong with it now."""
        shape = run_requests.shape_of(request, self.limits)
        time_limit_s = run_requests.time_limit_of(request, self.limits, user)
        qpu_budget_s = run_requests.qpu_budget_of(request)
        files = run_requests.files_of(request)
        arguments = run_requests.arguments_of(request)
        found = await self._runnable(user.name, request.function_title, request.function_version)
        version = found.version
        if version.spec.arguments_schema:
            await self._check_arguments(version, request.arguments_digest, arguments)
        space = space_of(user.name, version.name.provider, version.name.title)
        for name in files or ():
            await self.storage.check_file(user.name, space, name)
        # The arguments are durable before the job is: whoever sees the job can read them.
        digest = await self._stored(request.arguments_digest, arguments)
        return Submission(
            job_id=claim.job_id if claim else str(uuid.uuid4()),
            owner=user.name,
            program=_program(version),
            arguments_digest=digest,
            shape=shape,
            time_limit_s=time_limit_s,
            priority=request.priority,
            created_at=self.clock(),
            limit=user.limit,
            qpu_budget_s=qpu_budget_s,
            files=files,
            traceparent=tracing.current(),
            trial=found.access.trial,
        )

    async def _submit(self, submission: Submission, claim: Claim | None, key: str) -> tuple[Job, bool]:
        try:
            return await self.ledger.submit(submission, claim)
        except ActiveJobLimitError as error:
            jobs = "1 job that is" if error.active == 1 else f"{error.active:,} jobs that are"
            text = (
                f"{submission.owner} has {jobs} not over, and may have {error.most:,}. "
                "Wait until one ends, cancel one, or ask an administrator for more "
                f"(`qonduit users limit {submission.owner} --active-jobs N`)."
            )
            metadata = {"active": str(error.active), "limit": str(error.most)}
            raise ApiError(grpc.StatusCode.RESOURCE_EXHAUSTED, "ACTIVE_JOB_LIMIT", text, metadata=metadata) from error
        except UserDisabledError as error:
            raise user_disabled(submission.owner, str(error)) from error
        except KeyReusedError as error:
            text = (
                f"The idempotency key {key!r} was used for another request (job {error}). "
                "Use a new key for a new job, or repeat the request exactly."
            )
            metadata = {"idempotency_key": key, "job_id": str(error)}
            raise ApiError(grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED", text, metadata=metadata) from error

    async def check(self, user: User, title: str, arguments: bytes) -> None:
        """Raise ApiError unless a run of a function with these arguments would be accepted, as far as they go."""
        run_requests.check_arguments(arguments)
        version = (await self._runnable(user.name, title, "")).version
        if version.spec.arguments_schema:
            await self._check_arguments(version, "", arguments)

    async def _runnable(self, user: str, title: str, version: str) -> Found:
        """Return what a user may run; ApiError where there is none such, or it takes no jobs."""
        found = await self.catalog.find(user, title, version, Action.RUN)
        if text := found.version.disabled_text:
            name = str(found.version.name)
            raise ApiError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "FUNCTION_DISABLED",
                f"Function {name!r} takes no jobs for now. Its provider says: {text}",
                metadata={"function_title": name, "disabled_text": text},
            )
        return found

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
