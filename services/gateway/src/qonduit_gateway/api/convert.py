"""From the gateway's values to the messages of the API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp
from qonduit_api.v1 import cluster_pb2, functions_pb2, jobs_pb2, types_pb2
from qonduit_service_kit.messages import Reason, Shape, Stage, TaskState

from qonduit_gateway.jobs.model import JobState, status_text
from qonduit_gateway.providers.access import Action

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qonduit_service_kit.messages import TaskRecord, WaitingView, WorkerView

    from qonduit_gateway.functions.model import FunctionVersion
    from qonduit_gateway.jobs.model import Entry, Job
    from qonduit_gateway.jobs.tasks import TaskTally
    from qonduit_gateway.jobs.usage import StatusUsage
    from qonduit_gateway.providers.access import Access, Role

_NANOS = 1_000_000_000
_COUNTED_AS = {
    TaskState.WAITING: "queued",
    TaskState.QUEUED: "queued",
    TaskState.RUNNING: "running",
    TaskState.DONE: "done",
    TaskState.CANCELED: "canceled",
}
"""What is not here has failed."""


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


def task_state(value: TaskState) -> types_pb2.TaskState.ValueType:
    """Return a task's state of the API."""
    return types_pb2.TaskState.Value(f"TASK_STATE_{value.value}")


def task_counts(value: TaskTally) -> types_pb2.TaskCounts:
    """Return a tally of the API, where states that mean the same to most are one."""
    made = types_pb2.TaskCounts()
    for state_, count in value.by_state.items():
        name = _COUNTED_AS.get(state_, "failed")
        setattr(made, name, getattr(made, name) + count)
    return made


def task(value: TaskRecord) -> jobs_pb2.Task:
    """Return a task of the API."""
    made = jobs_pb2.Task(
        task_id=value.task_id,
        number=value.number,
        name=value.name,
        state=task_state(value.state),
        attempt=value.attempt,
        resources=resources(value.shape),
        stage=stage(value.stage),
        parent_task_id=value.parent_id,
        worker_id=value.worker_id,
        cpu_seconds=value.cpu_s,
        peak_mem_bytes=value.peak_mem_bytes,
        error_text=value.text,
    )
    for field, at in (
        (made.queue_time, value.queued_at),
        (made.start_time, value.started_at),
        (made.end_time, value.ended_at),
    ):
        if at:
            field.FromNanoseconds(round(at * _NANOS))
    return made


def worker(view: WorkerView) -> cluster_pb2.Worker:
    """Return a worker of the API."""
    draining = cluster_pb2.WORKER_STATE_DRAINING if view.leases else cluster_pb2.WORKER_STATE_DRAINED
    return cluster_pb2.Worker(
        worker_id=view.worker_id,
        hostname=view.hostname,
        capacity=resources(view.capacity),
        free=resources(view.free),
        leases=view.leases,
        draining=view.draining,
        sandbox_tier=view.sandbox_tier,
        seen_time=timestamp(view.seen_at),
        state=draining if view.draining else cluster_pb2.WORKER_STATE_OPEN,
    )


def queue_entry(view: WaitingView, *, whole: bool) -> cluster_pb2.QueueEntry:
    """Return an entry of the queue; not `whole`, it does not tell whose it is."""
    return cluster_pb2.QueueEntry(
        job_id=view.job_id if whole else "",
        kind=view.kind.value.lower(),
        resources=resources(view.shape),
        count=view.count,
        position=view.position,
        why=view.why if whole else "",
        user=view.user if whole else "",
        since=timestamp(view.since) if view.since else None,
    )


def job(value: Job, waiting_for: str = "", tasks: TaskTally | None = None) -> jobs_pb2.Job:
    """Return a job of the API; tasks of another attempt than the present one are left out."""
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
        provider=asked.program.provider,
        trial=asked.trial,
    )
    if now.started_at is not None:
        made.start_time.CopyFrom(timestamp(now.started_at))
    if now.ended_at is not None:
        made.end_time.CopyFrom(timestamp(now.ended_at))
    if tasks is not None and tasks.attempt == now.attempt:
        made.task_counts.CopyFrom(task_counts(tasks.settled(over=now.state.terminal)))
    return made


def job_for_provider(value: Job) -> jobs_pb2.Job:
    """Return a job of the API as its function's provider sees it, without what is its user's alone."""
    made = job(value)
    # Its error text is what the function told its user.
    for field in ("error_text", "result_bytes", "waiting_for"):
        made.ClearField(field)
    return made


def timeline_entry(entry: Entry) -> jobs_pb2.TimelineEntry:
    """Return an entry of the API."""
    made = jobs_pb2.TimelineEntry(time=timestamp(entry.at), status=entry.status, attempt=entry.attempt, text=entry.text)
    if (told := entry.error) is not None:
        error = jobs_pb2.ToldError(
            code=told.code, message=told.message, exception=told.exception, args_json=told.args.encode()
        )
        made.error.CopyFrom(error)
    return made


def usage(value: StatusUsage) -> types_pb2.StageUsage:
    """Return a stage's totals of the API."""
    return types_pb2.StageUsage(
        status=value.status,
        wall_seconds=value.wall_s,
        cpu_seconds=value.cpu_s,
        qpu_seconds=value.qpu_s,
        peak_mem_bytes=value.peak_mem_bytes,
    )


def function(value: FunctionVersion, access: Access) -> functions_pb2.Function:
    """Return a function of the API: what it consists of is told to those alone who may change it."""
    made = functions_pb2.Function(
        spec=functions_pb2.FunctionSpec(
            title=value.spec.title,
            description=value.spec.description,
            version_label=value.spec.version_label,
            arguments_schema=value.spec.arguments_schema,
        ),
        version=value.version,
        owner=value.name.owner,
        create_time=timestamp(value.created_at),
        aliases=value.aliases,
        provider=value.name.provider,
        disabled_text=value.disabled_text,
        roles=roles(access.roles) if value.name.provider else (),
    )
    if access.allows(Action.MANAGE):
        made.spec.entrypoint = value.spec.entrypoint
        made.spec.dependencies.extend(value.spec.dependencies)
        made.spec.env_vars.update(value.spec.environment)
        made.artifact_digest, made.artifact_bytes = value.artifact_digest, value.artifact_bytes
    return made


def role(value: Role) -> types_pb2.Role.ValueType:
    """Return a role of the API."""
    return types_pb2.Role.Value(f"ROLE_{value.value}")


def roles(values: Iterable[Role]) -> list[types_pb2.Role.ValueType]:
    """Return roles of the API, in their order there."""
    return sorted(role(value) for value in values)
