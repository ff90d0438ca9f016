"""From the gateway's values to the messages of the API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp
from qonduit_api.v1 import functions_pb2, jobs_pb2, types_pb2
from qonduit_service_kit.messages import Reason, Shape, Stage

from qonduit_gateway.jobs.model import JobState, status_text

if TYPE_CHECKING:
    from qonduit_gateway.functions.model import FunctionVersion
    from qonduit_gateway.jobs.model import Entry, Job
    from qonduit_gateway.jobs.usage import StatusUsage

_NANOS = 1_000_000_000


def timestamp(at: float) -> Timestamp:
    """Return seconds since the epoch as a Timestamp."""
    made = Timestamp()
    made.FromNanoseconds(round(at * _NANOS))
    return made


def state(value: JobState) -> types_pb2.JobState.ValueType:
    """Return a state of the API."""
    return types_pb2.JobState.Value(f"JOB_STATE_{value.value}")


def state_from(value: types_pb2.JobState.ValueType) -> JobState | None:
    """Return a state of ours; None for one that isn't known here."""
    name = types_pb2.JobState.Name(value) if value in types_pb2.JobState.values() else ""
    known = name.removeprefix("JOB_STATE_")
    return JobState(known) if known in JobState.__members__ else None


def stage(value: Stage) -> types_pb2.Stage.ValueType:
    """Return a stage of the API."""
    if value is Stage.NONE:
        return types_pb2.STAGE_UNSPECIFIED
    return types_pb2.Stage.Value(f"STAGE_{value.value}")


def reason(value: Reason) -> types_pb2.Reason.ValueType:
    """Return a reason of the API."""
    if value is Reason.NONE:
        return types_pb2.REASON_UNSPECIFIED
    return types_pb2.Reason.Value(f"REASON_{value.value}")


def resources(shape: Shape) -> types_pb2.Resources:
    """Return a shape of the API."""
    return types_pb2.Resources(cpu_millis=shape.cpu_millis, mem_bytes=shape.mem_bytes, gpus=shape.gpus)


def job(value: Job, waiting_for: str = "") -> jobs_pb2.Job:
    """Return a job of the API."""
    asked, now = value.submission, value.progress
    made = jobs_pb2.Job(
        job_id=value.job_id,
        function_title=asked.program.title,
        function_version=asked.program.version,
        owner=asked.owner,
        state=state(now.state),
        stage=stage(now.stage),
        status=status_text(now.state, now.stage),
        reason=reason(now.reason),
        error_text=now.error_text,
        attempt=now.attempt,
        revision=now.revision,
        create_time=timestamp(asked.created_at),
        waiting_for=waiting_for if now.state is JobState.QUEUED else "",
        resources=resources(asked.shape),
        time_limit_seconds=asked.time_limit_s,
        result_bytes=now.result_bytes,
        exit_code=now.exit_code,
        signal=now.signal,
    )
    if now.started_at is not None:
        made.start_time.CopyFrom(timestamp(now.started_at))
    if now.ended_at is not None:
        made.end_time.CopyFrom(timestamp(now.ended_at))
    return made


def timeline_entry(entry: Entry) -> jobs_pb2.TimelineEntry:
    """Return an entry of the API."""
    return jobs_pb2.TimelineEntry(time=timestamp(entry.at), status=entry.status, attempt=entry.attempt, text=entry.text)


def usage(value: StatusUsage) -> types_pb2.StageUsage:
    """Return a stage's totals of the API."""
    return types_pb2.StageUsage(
        status=value.status,
        wall_seconds=value.wall_s,
        cpu_seconds=value.cpu_s,
        qpu_seconds=value.qpu_s,
        peak_mem_bytes=value.peak_mem_bytes,
    )


def function(value: FunctionVersion) -> functions_pb2.Function:
    """Return a function of the API."""
    spec = functions_pb2.FunctionSpec(
        title=value.spec.title,
        entrypoint=value.spec.entrypoint,
        dependencies=value.spec.dependencies,
        env_vars=dict(value.spec.environment),
        description=value.spec.description,
        version_label=value.spec.version_label,
    )
    return functions_pb2.Function(
        spec=spec,
        version=value.version,
        owner=value.owner,
        artifact_digest=value.artifact_digest,
        artifact_bytes=value.artifact_bytes,
        create_time=timestamp(value.created_at),
    )
