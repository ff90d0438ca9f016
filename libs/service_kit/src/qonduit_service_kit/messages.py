"""Every message that crosses the bus, and where it goes.

A message is a frozen dataclass registered under a stable name and a version. Fields are only ever
added, each with a default, so that new code reads old messages; a changed meaning is a new version.
Times are seconds since the epoch, durations are seconds, memory is bytes, cpu is in thousandths of
a core. Bodies stay under 64 KiB: larger bytes travel through storage, by digest.

It is one long file on purpose: the contract between the services, to be read as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

Body = TypeVar("Body", bound=type)

INLINE_LIMIT_BYTES = 32 * 1024
"""Bytes a message may carry itself; what is larger goes through storage by digest."""

_registry: dict[tuple[str, int], type] = {}
_names: dict[type, tuple[str, int]] = {}


def message(name: str, version: int = 1) -> _Registrar:
    """Register a message type under its name on the wire."""
    return _Registrar(name, version)


class _Registrar:
    def __init__(self, name: str, version: int) -> None:
        self._key = (name, version)

    def __call__(self, body: Body) -> Body:
        if self._key in _registry:
            raise ValueError(f"message {self._key} is registered twice")
        _registry[self._key] = body
        _names[body] = self._key
        return body


def wire_name(body_type: type) -> tuple[str, int]:
    """Return the (name, version) a message type is sent under; KeyError if it is none."""
    return _names[body_type]


def type_of(name: str, version: int) -> type | None:
    """Return the message type for a name and version from the wire, or None if unknown here."""
    return _registry.get((name, version))


# --- Where messages go -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Address:
    """An exchange and a routing key."""

    exchange: str
    key: str


GATEWAY = Address("qonduit.gateway", "inbox")
"""Whoever has something for the gateway sends it here: scheduler, workers, and the QPU broker."""
SCHEDULER = Address("qonduit.scheduler", "inbox")
QPU_BROKER = Address("qonduit.qpu", "inbox")
ALL_WORKERS = Address("qonduit.workers.all", "")
"""A fanout exchange: each worker's inbox is bound to it."""
TASKS_EXCHANGE = "qonduit.tasks"
WORKERS_EXCHANGE = "qonduit.workers"


def worker(worker_id: str) -> Address:
    """Address of one worker's inbox."""
    return Address(WORKERS_EXCHANGE, worker_id)


def task_queue(job_id: str, attempt: int, shape: Shape) -> Address:
    """Address of the queue that holds one attempt's tasks of one shape; queue name and key are equal."""
    return Address(TASKS_EXCHANGE, f"tasks.{job_id}.{attempt}.{shape.label}")


# --- Values ------------------------------------------------------------------------------------


class Stage(StrEnum):
    """What a running job is doing; NONE when its program has not said."""

    NONE = "NONE"
    MAPPING = "MAPPING"
    OPTIMIZING_FOR_HARDWARE = "OPTIMIZING_FOR_HARDWARE"
    WAITING_FOR_QPU = "WAITING_FOR_QPU"
    EXECUTING_QPU = "EXECUTING_QPU"
    POST_PROCESSING = "POST_PROCESSING"


class Reason(StrEnum):
    """Why an attempt ended other than with DONE."""

    NONE = "NONE"
    PROGRAM_ERROR = "PROGRAM_ERROR"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    TIMEOUT = "TIMEOUT"
    WORKER_LOST = "WORKER_LOST"
    UNSCHEDULABLE = "UNSCHEDULABLE"
    QPU_ERROR = "QPU_ERROR"
    RESULT_NOT_SERIALIZABLE = "RESULT_NOT_SERIALIZABLE"
    DEPENDENCY_ERROR = "DEPENDENCY_ERROR"
    KILLED = "KILLED"
    CANCELED = "CANCELED"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """What one driver or executor asks for."""

    cpu_millis: int
    mem_bytes: int
    gpus: int = 0

    @property
    def label(self) -> str:
        """A short text that is one to one with the shape, for queue names and logs."""
        return f"c{self.cpu_millis}m{self.mem_bytes}g{self.gpus}"


@dataclass(frozen=True, slots=True)
class JobSpec:
    """All that is needed to place and run one attempt of a job."""

    job_id: str
    attempt: int
    user: str
    function_title: str
    function_version: str
    artifact_digest: str
    entrypoint: str
    arguments_digest: str
    shape: Shape
    time_limit_s: float
    submitted_at: float
    storage_ticket: str
    """Signed by the gateway; lets the worker read this job's inputs and write its outputs, no more."""
    environment: dict[str, str] = field(default_factory=dict)
    dependencies: tuple[str, ...] = ()
    priority: int = 0
    limit: Shape = field(default_factory=lambda: Shape(16_000, 32 * 1024**3, 16))
    """Most that the driver's executors may hold together."""
    qpu_budget_s: float | None = None
    """Most QPU seconds that the job may be charged, in all its attempts; None for no limit."""
    user_qpu_budget_s: float | None = None
    """Most QPU seconds that its user may be charged in any 28 days; None for no limit."""
    files: tuple[str, ...] | None = None
    """Names of the user's files that programs find in /data; None for all of them."""
    traceparent: str = ""
    """The job's place in a trace, if it is in one."""
    provider: str = ""
    """Provider whose function it is; empty for a function of the user's own."""
    trial: bool = False
    """Whether the user may only try the function: its program can ask."""
    space: str = ""
    """Space whose files are in /data; empty for the user's own (see `spaces`)."""
    provider_space: str = ""
    """Space whose files are in /function_data, to be read; empty for none."""
    user_running_jobs: int | None = None
    """Most jobs of its user that have a place on a worker at a time, as the gateway said last; None for no limit."""


class LeaseKind(StrEnum):
    """What a lease is for."""

    DRIVER = "DRIVER"
    EXECUTOR = "EXECUTOR"


@dataclass(frozen=True, slots=True)
class StageUsage:
    """Absolute totals of one stage of one attempt, so that applying a report twice changes nothing."""

    stage: Stage
    wall_s: float = 0.0
    cpu_s: float = 0.0
    qpu_s: float = 0.0
    """Always 0 by now, and never billed: what QPU work cost, the broker alone says (QpuCharged)."""
    peak_mem_bytes: int = 0


# --- To the scheduler --------------------------------------------------------------------------


@message("scheduler.job_submitted")
@dataclass(frozen=True, slots=True)
class JobSubmitted:
    """An attempt wants a place. May come again; (job, attempt) tells."""

    spec: JobSpec


@message("scheduler.job_withdrawn")
@dataclass(frozen=True, slots=True)
class JobWithdrawn:
    """The gateway ended this attempt, or all attempts up to it: forget it, take back its leases."""

    job_id: str
    attempt: int


@message("scheduler.user_limited")
@dataclass(frozen=True, slots=True)
class UserLimited:
    """How many of a user's jobs may have a place on a worker at a time has changed: it holds for those that wait, too.

    A lost one is made up for by the user's next `JobSubmitted`, or the next snapshot.
    """

    user: str
    running_jobs: int | None
    """None for no limit."""


@dataclass(frozen=True, slots=True)
class RunningAttempt:
    """An attempt that the gateway believes to be on a worker."""

    spec: JobSpec
    worker_id: str


@message("scheduler.jobs_snapshot")
@dataclass(frozen=True, slots=True)
class JobsSnapshot:
    """The gateway's answer to SchedulerHello, in pages; it carries the term of leadership."""

    scheduler_id: str
    term: int
    page: int
    last: bool
    queued: tuple[JobSpec, ...] = ()
    running: tuple[RunningAttempt, ...] = ()


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """One lease as the worker that holds it sees it."""

    lease_id: str
    kind: LeaseKind
    job_id: str
    attempt: int
    shape: Shape
    user: str = ""
    idle_since: float | None = None
    """An executor with nothing to do since then; None while busy, and for drivers."""
    lends_cpu: bool = False
    """A driver, or an executor whose task waits in get(), has given its cpu (not its memory) back."""


@message("scheduler.worker_heartbeat")
@dataclass(frozen=True, slots=True)
class WorkerHeartbeat:
    """The whole truth about one worker, sent every few seconds and on every change."""

    worker_id: str
    incarnation: str
    """New each time the worker's process starts; leases of an older incarnation are gone."""
    sequence: int
    capacity: Shape
    leases: tuple[LeaseStatus, ...] = ()
    draining: bool = False
    sandbox_tier: str = ""
    hostname: str = ""
    term: int = 0
    """The highest leadership term this worker has seen."""


@message("scheduler.worker_stopped")
@dataclass(frozen=True, slots=True)
class WorkerStopped:
    """A worker said goodbye after ending everything it ran."""

    worker_id: str
    incarnation: str


@message("scheduler.lease_ended")
@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """A lease is free again, whatever the cause."""

    worker_id: str
    lease_id: str
    cause: str = ""
    refused: bool = False
    """The worker never took it: what was granted goes back to the queue, for another place."""


@message("scheduler.probe")
@dataclass(frozen=True, slots=True)
class SchedulerProbe:
    """A scheduler's word to the scheduler's inbox: whoever gets it is the active one."""

    scheduler_id: str
    sequence: int


@message("scheduler.task_demand")
@dataclass(frozen=True, slots=True)
class TaskDemand:
    """How many tasks of a shape an attempt has that are not finished: an absolute count."""

    job_id: str
    attempt: int
    worker_id: str
    """Where the driver runs: executors talk to that worker's agent."""
    user: str
    shape: Shape
    unfinished: int
    sequence: int
    """Per (job, attempt, shape); an older one is dropped."""
    limit: Shape = field(default_factory=lambda: Shape(16_000, 32 * 1024**3, 16))
    storage_ticket: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    artifact_digest: str = ""
    task_name: str = ""
    """Name of most of the unfinished tasks."""
    task_s: float = 0.0
    """Mean run time of the last two ended tasks of that name in this attempt; 0 when none has ended yet."""
    executors: tuple[tuple[str, str], ...] = ()
    """(lease id, worker id) of each executor that owns tasks of this shape: a scheduler that took over misses
    from it those that were lost while nobody looked."""
    dependencies: tuple[str, ...] = ()
    """The function's requirements, for executors on machines that have not got its environment."""
    qpu_budget_s: float | None = None
    user_qpu_budget_s: float | None = None
    """Both as in JobSpec: tasks may use QPUs."""
    files: tuple[str, ...] | None = None
    """As in JobSpec: tasks find the same files."""
    traceparent: str = ""
    """As in JobSpec."""
    space: str = ""
    provider_space: str = ""
    """Both as in JobSpec."""


@message("scheduler.driver_waiting")
@dataclass(frozen=True, slots=True)
class DriverWaiting:
    """A driver, or an executor's task, blocks in get() (it lends its cpu) or goes on (it takes it again)."""

    worker_id: str
    lease_id: str
    waiting: bool
    sequence: int


# --- To workers --------------------------------------------------------------------------------


@message("worker.driver_granted")
@dataclass(frozen=True, slots=True)
class DriverGranted:
    """Run this attempt's driver. A grant of an older term than one seen is refused by the worker."""

    term: int
    lease_id: str
    spec: JobSpec
    incarnation: str = ""
    """Of the worker that was granted it: a later life of that worker refuses it."""


@message("worker.executor_granted")
@dataclass(frozen=True, slots=True)
class ExecutorGranted:
    """Run one executor that consumes a task queue."""

    term: int
    lease_id: str
    job_id: str
    attempt: int
    user: str
    shape: Shape
    driver_worker_id: str
    storage_ticket: str
    environment: dict[str, str] = field(default_factory=dict)
    artifact_digest: str = ""
    incarnation: str = ""
    """Of the worker that was granted it: a later life of that worker refuses it."""
    dependencies: tuple[str, ...] = ()
    """As the demand for it says."""
    qpu_budget_s: float | None = None
    user_qpu_budget_s: float | None = None
    """Both as the demand for it says."""
    files: tuple[str, ...] | None = None
    """As the demand for it says."""
    traceparent: str = ""
    """As the demand for it says."""
    space: str = ""
    provider_space: str = ""
    """Both as the demand for it says."""


@message("worker.lease_revoked")
@dataclass(frozen=True, slots=True)
class LeaseRevoked:
    """Give a lease back: an executor ends after the task in hand, at once if `now`."""

    term: int
    lease_id: str
    cause: str
    now: bool = False


@message("worker.scheduler_elected")
@dataclass(frozen=True, slots=True)
class SchedulerElected:
    """A scheduler became the active one: answer with a heartbeat, refuse older terms."""

    term: int


@message("worker.demand_refused")
@dataclass(frozen=True, slots=True)
class DemandRefused:
    """No worker could ever give this shape; the text has the numbers."""

    job_id: str
    attempt: int
    shape: Shape
    text: str


@message("worker.executor_lost")
@dataclass(frozen=True, slots=True)
class ExecutorLost:
    """An executor's worker is gone: its tasks must be sent again by the driver's agent."""

    job_id: str
    attempt: int
    lease_id: str
    cause: str


@message("worker.stop_attempt")
@dataclass(frozen=True, slots=True)
class StopAttempt:
    """End an attempt's driver and executors: canceled by the user, or stale (fenced off)."""

    job_id: str
    attempt: int
    cause: Reason
    grace_s: float = 5.0


@message("worker.drain")
@dataclass(frozen=True, slots=True)
class WorkerDrain:
    """Take nothing new and end what is held in its own time, or take leases again; kept over restarts of the worker."""

    worker_id: str
    draining: bool
    asked_at: float = 0.0
    """When an operator asked; of two that cross, the later holds."""


# --- To the gateway ----------------------------------------------------------------------------


@message("gateway.scheduler_hello")
@dataclass(frozen=True, slots=True)
class SchedulerHello:
    """A scheduler became active and asks for a term and for the jobs."""

    scheduler_id: str


class EventKind(StrEnum):
    """What an attempt's event tells."""

    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    STAGE = "STAGE"
    USAGE = "USAGE"
    FINISHED = "FINISHED"


@dataclass(frozen=True, slots=True)
class ToldError:
    """An error that a program tells its users; the worker keeps it within bounds."""

    code: str
    message: str
    exception: str
    """Name of the exception's class."""
    args: str = ""
    """More of it, as JSON; empty for nothing."""


@message("gateway.job_event")
@dataclass(frozen=True, slots=True)
class JobEvent:
    """One step of one attempt, from the driver's agent, the only writer of its sequence.

    (job, attempt, sequence) is unique: a duplicate is dropped, an old attempt is fenced off.
    """

    job_id: str
    attempt: int
    sequence: int
    at: float
    worker_id: str
    kind: EventKind
    stage: Stage = Stage.NONE
    reason: Reason = Reason.NONE
    """For FINISHED: NONE means DONE."""
    text: str = ""
    """For FINISHED with a reason: what happened and what to do, at most 16 KiB, with the traceback's end."""
    exit_code: int | None = None
    signal: int | None = None
    result_digest: str = ""
    result_bytes: int = 0
    usage: tuple[StageUsage, ...] = ()
    """Absolute totals so far; sent with STAGE, USAGE and FINISHED."""
    error: ToldError | None = None
    """With STAGE: what the program told, and went on. With FINISHED: what it told and ended with."""
    result: bytes | None = None
    """With FINISHED: a small result, for those who wait for it; it is in storage like any other."""


@message("gateway.placement_refused")
@dataclass(frozen=True, slots=True)
class PlacementRefused:
    """No worker could ever run this job; the text has the numbers."""

    job_id: str
    attempt: int
    text: str


@message("gateway.attempt_lost")
@dataclass(frozen=True, slots=True)
class AttemptLost:
    """The attempt's worker, or its lease, is gone: the gateway requeues with the next attempt."""

    job_id: str
    attempt: int
    worker_id: str
    text: str


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker as the scheduler sees it."""

    worker_id: str
    hostname: str
    capacity: Shape
    free: Shape
    leases: int
    draining: bool
    sandbox_tier: str
    seen_at: float


@dataclass(frozen=True, slots=True)
class WaitingView:
    """Why a job or a job's demand waits."""

    job_id: str
    attempt: int
    kind: LeaseKind
    shape: Shape
    count: int
    position: int
    why: str
    user: str = ""
    since: float = 0.0
    """When it began to wait; 0 if the scheduler did not say."""


@message("gateway.cluster_report")
@dataclass(frozen=True, slots=True)
class ClusterReport:
    """The scheduler's picture, at most once a second while it changes; kept in memory only.

    That of a large cluster comes in pages, which have term and time in common.
    """

    term: int
    at: float
    workers: tuple[WorkerView, ...] = ()
    waiting: tuple[WaitingView, ...] = ()
    waiting_total: int = 0
    page: int = 0
    last: bool = True


# --- Tasks -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TaskFunction:
    """A distributed function with its target and its promises; calls name it by its id.

    Its code is bytes that only the user's sandbox may decode.
    """

    function_id: str
    """Digest of all the rest, so that a process decodes it once."""
    name: str
    shape: Shape
    max_retries: int = 3
    """How often a call may lose its executor and be tried again."""
    timeout_s: float = 0.0
    """Longest time one attempt of a call may run; 0 for no limit."""
    code: bytes | None = None
    code_digest: str = ""
    """Set instead of `code` when the bytes are a blob."""


@dataclass(frozen=True, slots=True)
class TaskInput:
    """The value of another task, given to a call where it runs."""

    task_id: str = ""
    """Of the task whose value it is, while that has none yet."""
    value: bytes | None = None
    value_digest: str = ""


@dataclass(frozen=True, slots=True)
class TaskCall:
    """One call of a distributed function: bytes that only the user's sandbox may decode."""

    task_id: str
    attempt: int
    number: int
    """0, 1, ... in the order of submission in this attempt of the job."""
    function: int
    """Index among the functions of its batch."""
    call: bytes | None = None
    call_digest: str = ""
    """Set instead of `call` when the bytes are a blob."""
    inputs: tuple[TaskInput, ...] = ()


@message("tasks.batch", 2)
@dataclass(frozen=True, slots=True)
class TaskBatch:
    """Tasks for whichever executor takes them."""

    job_id: str
    job_attempt: int
    batch: int
    """Numbers the batches of one driver's agent."""
    functions: tuple[TaskFunction, ...]
    tasks: tuple[TaskCall, ...]
    expected_s: float = 0.0
    """How long all of it will run, as its driver's agent expects; 0 when it knows nothing."""


@message("worker.tasks_taken", 2)
@dataclass(frozen=True, slots=True)
class TasksTaken:
    """An executor's lease now owns these tasks (task id, attempt); sent before the delivery is acknowledged."""

    job_id: str
    job_attempt: int
    lease_id: str
    worker_id: str
    batch: int
    tasks: tuple[tuple[str, int], ...]


class TaskOutcome(StrEnum):
    """How one attempt of a task ended."""

    OK = "OK"
    ERROR = "ERROR"
    """The function raised: `value` holds the exception, encoded in the sandbox."""
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    TIMEOUT = "TIMEOUT"
    """It ran longer than its function's timeout."""
    CANCELED = "CANCELED"
    EXECUTOR_DIED = "EXECUTOR_DIED"
    RETURNED = "RETURNED"
    """Never started: its executor was held up, or its lease was given back first."""


@dataclass(frozen=True, slots=True)
class TaskReply:
    """The end of one attempt of a task."""

    task_id: str
    attempt: int
    outcome: TaskOutcome
    value: bytes | None = None
    value_digest: str = ""
    text: str = ""
    cpu_s: float = 0.0
    started_at: float = 0.0
    wall_s: float = 0.0
    """Seconds from its start in its executor to its end, decoding and encoding included."""
    peak_mem_bytes: int = 0
    waited_s: float = 0.0
    """Of these: until its agent had brought or stored large values."""


@message("worker.task_replies", 2)
@dataclass(frozen=True, slots=True)
class TaskReplies:
    """Replies for the driver's agent; a repeated one is dropped there by (task, attempt)."""

    job_id: str
    job_attempt: int
    lease_id: str
    replies: tuple[TaskReply, ...]


@message("worker.tasks_canceled")
@dataclass(frozen=True, slots=True)
class TasksCanceled:
    """Nobody wants these tasks of a lease any more; one that has ended is ignored."""

    job_id: str
    job_attempt: int
    lease_id: str
    tasks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SubmittedTask:
    """A call as its program submitted it."""

    task_id: str
    function_id: str
    call: bytes | None = None
    call_digest: str = ""
    inputs: tuple[TaskInput, ...] = ()
    apart: tuple[str, ...] = ()
    """Digests of the arguments that were stored as blobs of their own; the call names them."""


@message("worker.task_requests")
@dataclass(frozen=True, slots=True)
class TaskRequests:
    """What a task asks of its driver's agent: to run tasks of its own, or to cancel some. May come twice."""

    job_id: str
    job_attempt: int
    lease_id: str
    worker_id: str
    parent_id: str
    functions: tuple[TaskFunction, ...] = ()
    tasks: tuple[SubmittedTask, ...] = ()
    cancel: tuple[str, ...] = ()
    sequence: int = 0
    """Per lease, from 1; one that is not new is dropped."""
    waiting: bool | None = None
    """Whether the task in hand now waits for others; None when that has not changed."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How a task ended, for the program that submitted it."""

    task_id: str
    outcome: str
    value: bytes | None = None
    value_digest: str = ""
    text: str = ""


@message("worker.task_results")
@dataclass(frozen=True, slots=True)
class TaskResults:
    """The ends of tasks that a task has submitted, on their way to its executor; one that comes twice is dropped."""

    job_id: str
    job_attempt: int
    lease_id: str
    results: tuple[TaskResult, ...] = ()
    unknown: tuple[str, ...] = ()
    """Tasks that were not taken: an input had ended, and its value was told before."""


class TaskState(StrEnum):
    """Where a task stands."""

    WAITING = "WAITING"
    """For references among its arguments."""
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    """Owned by an executor."""
    DONE = "DONE"
    ERROR = "ERROR"
    """Its function raised."""
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    TIMEOUT = "TIMEOUT"
    LOST = "LOST"
    """Its executor died too often."""
    UNSCHEDULABLE = "UNSCHEDULABLE"
    CANCELED = "CANCELED"

    @property
    def final(self) -> bool:
        """Whether nothing follows."""
        return self not in {TaskState.WAITING, TaskState.QUEUED, TaskState.RUNNING}


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What its users see of one task. On the wire it is a list of values: a new field goes to the end."""

    task_id: str
    name: str
    state: TaskState
    attempt: int
    number: int
    """0, 1, ... in order of submission in this attempt of the job."""
    shape: Shape
    stage: Stage
    parent_id: str = ""
    """The task that started it, if it was not the driver."""
    worker_id: str = ""
    queued_at: float = 0.0
    started_at: float = 0.0
    ended_at: float = 0.0
    cpu_s: float = 0.0
    peak_mem_bytes: int = 0
    text: str = ""
    """Why it failed, at most 200 characters."""


TASKS_A_PAGE = 200
"""Tasks in a page; packed, it stays under 64 KiB."""


@dataclass(frozen=True, slots=True)
class TasksPage:
    """The present state of one page of an attempt's tasks: those numbered from page * TASKS_A_PAGE on.

    Absolute, so that applying it twice or late changes nothing: an older revision is dropped.
    """

    job_id: str
    job_attempt: int
    page: int
    revision: int
    tasks: tuple[TaskRecord, ...]


@message("gateway.tasks_page")
@dataclass(frozen=True, slots=True)
class PackedTasksPage:
    """A TasksPage as it travels (`task_pages.packed` makes it): the gateway keeps it without looking inside."""

    job_id: str
    job_attempt: int
    page: int
    revision: int
    counts: dict[str, int]
    """How many of the page's tasks are in each TaskState; those without one may be missing."""
    packed: bytes
    """The tasks, for `task_pages.unpacked`."""


@message("worker.executor_output")
@dataclass(frozen=True, slots=True)
class ExecutorOutput:
    """What an executor printed, on its way to the job's log, which only the driver's agent writes."""

    job_id: str
    job_attempt: int
    lease_id: str
    sequence: int
    """Per lease, from 1; one that is not new is dropped."""
    chunk: bytes


@message("worker.blob_wanted")
@dataclass(frozen=True, slots=True)
class BlobWanted:
    """A blob is on its driver's worker alone, which is to bring it to storage. Asked again until it is there."""

    job_id: str
    job_attempt: int
    digest: str
    """The name that it has in this attempt; no sha256."""
    worker_id: str
    """Whom to answer."""


@message("worker.blob_ready")
@dataclass(frozen=True, slots=True)
class BlobReady:
    """The answer to BlobWanted; one that comes twice changes nothing."""

    job_id: str
    job_attempt: int
    digest: str
    ready: bool = False
    """It is in storage; if not, and there is no text, it is on its way there."""
    text: str = ""
    """Why it will not come."""
    stored_as: str = ""
    """The sha256 under which it is in storage."""


# --- QPU ---------------------------------------------------------------------------------------


@message("qpu.request")
@dataclass(frozen=True, slots=True)
class QpuRequest:
    """One HTTP request of a program's runtime client, forwarded undecoded.

    The broker answers a repeated request id from its ledger: POST /jobs and POST /sessions happen once
    for each (job, call number, body digest).
    """

    request_id: str
    reply_to: Address
    user: str
    job_id: str
    attempt: int
    method: str
    path: str
    """Below the API's base: '/jobs', '/backends/ibm_torino/configuration', ..."""
    query: tuple[tuple[str, str], ...] = ()
    api_version: str = ""
    """The client's IBM-API-Version header, forwarded as it came."""
    call_number: int = 0
    """Counts how often its caller sent this POST with this body; same program, same calls, same numbers."""
    caller: str = ""
    """Which of the attempt's endpoints asks (its driver, or one of its executors): each counts for itself."""
    body: bytes | None = None
    body_digest: str = ""
    """Set instead of `body` when the bytes are in storage."""
    qpu_budget_s: float | None = None
    user_qpu_budget_s: float | None = None
    """Both as in JobSpec, with every request of a program."""


@message("worker.qpu_reply", 1)
@dataclass(frozen=True, slots=True)
class QpuReply:
    """The answer to a QpuRequest."""

    request_id: str
    status: int
    content_type: str = "application/json"
    body: bytes | None = None
    body_digest: str = ""


class QpuState(StrEnum):
    """State of a QPU job, in the words of the runtime API."""

    QUEUED = "Queued"
    RUNNING = "Running"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELLED = "Cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing follows."""
        return self in {QpuState.COMPLETED, QpuState.FAILED, QpuState.CANCELLED}


@message("worker.qpu_transition")
@dataclass(frozen=True, slots=True)
class QpuTransition:
    """One step of one QPU job; steps of a job are numbered from 0 without a gap, and may come twice."""

    qpu_job_id: str
    job_id: str
    attempt: int
    sequence: int
    state: QpuState
    at: float
    backend: str
    text: str = ""
    """For FAILED and CANCELLED: the reason."""
    qpu_seconds: float | None = None
    """Set with the last step if they are known by then; what is billed comes as `QpuCharged`."""
    ahead: int | None = None
    """For QUEUED: how many jobs for the device were before it, as far as the broker knows."""
    wait_s: float | None = None
    """For QUEUED: the seconds that it may wait, if enough is known of the device."""


@message("gateway.qpu_charged")
@dataclass(frozen=True, slots=True)
class QpuCharged:
    """What one QPU job, or one dedicated session, cost in the end.

    The QPU broker tells it until it is confirmed; it is booked once, by its charge id.
    """

    charge_id: str
    """The QPU job's id; an id of the dedicated session, where that is charged by the clock and its jobs are not."""
    job_id: str
    user: str
    backend: str
    mode: str
    """'job', 'batch' or 'dedicated'."""
    qpu_seconds: float
    at: float


@message("qpu.program_ended")
@dataclass(frozen=True, slots=True)
class ProgramEnded:
    """An attempt is over: cancel what it left queued, close its sessions."""

    job_id: str
    attempt: int
    last: bool = False
    """Whether the job is over with it: then nobody wants the results of what still runs, which is cancelled too."""
