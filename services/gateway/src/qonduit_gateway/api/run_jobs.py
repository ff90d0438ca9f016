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
from qonduit_gateway.database.idempotency_rows import Claim
from qonduit_gateway.functions import schema
from qonduit_gateway.functions.schema_process import ARGUMENTS_BYTES
from qonduit_gateway.jobs.model import Program, Submission
from qonduit_gateway.ledger import KeyReusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit_api.v1 import jobs_pb2

    from qonduit_gateway.api.function_catalog import FunctionCatalog
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
        shape = run_requests.shape_of(request, self.limits)
        time_limit_s = run_requests.time_limit_of(request, self.limits)
        qpu_budget_s = run_requests.qpu_budget_of(request)
        files = run_requests.files_of(request)
        arguments = run_requests.arguments_of(request)
        key = run_requests.key_of(request)
        version = await self.catalog.find(user.name, request.function_title, request.function_version)
        if version.spec.arguments_schema:
            await self._check_arguments(version, request.arguments_digest, arguments)
        for name in files or ():
            await self.storage.check_file(user.name, name)
        # The arguments are durable before the job is: whoever sees the job can read them.
        digest = await self._stored(request.arguments_digest, arguments)
        submission = Submission(
            job_id=str(uuid.uuid4()),
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
        )
        claim = Claim(user.name, key, run_requests.request_hash(request), submission.job_id) if key else None
        try:
            return await self.ledger.submit(submission, claim)
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
        version = await self.catalog.find(user.name, title, "")
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
    )
