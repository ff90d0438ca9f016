"""A gateway in this process: the real gRPC server and stubs, with a dict behind them."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent import futures
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from fake_files import FakeFiles
from fake_providers import FakeProviders, ProviderWorld
from fake_qpus import FakeQpus, QpuWorld
from fake_refusals import fail
from fake_users import ME, FakeUsers, UserWorld
from google.rpc import code_pb2  # type: ignore[import-untyped]
from qonduit_api.v1 import (
    cluster_pb2,
    cluster_pb2_grpc,
    files_pb2_grpc,
    functions_pb2,
    functions_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    providers_pb2_grpc,
    qpu_pb2_grpc,
    types_pb2,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "good-token"


@dataclass
class State:
    functions: dict[str, functions_pb2.Function] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, jobs_pb2.Job] = field(default_factory=dict)
    runs: list[jobs_pb2.RunRequest] = field(default_factory=list)
    arguments: dict[str, bytes] = field(default_factory=dict)
    results: dict[str, bytes] = field(default_factory=dict)
    logs: dict[str, bytes] = field(default_factory=dict)
    log_of_any: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    tasks: dict[str, list[jobs_pb2.Task]] = field(default_factory=dict)
    task_calls: int = 0
    workers: list[cluster_pb2.Worker] = field(default_factory=list)
    queue: list[cluster_pb2.QueueEntry] = field(default_factory=list)
    people: UserWorld = field(default_factory=UserWorld)
    qpu: QpuWorld = field(default_factory=QpuWorld)
    sharing: ProviderWorld = field(default_factory=ProviderWorld)
    artifact_limit_bytes: int = 50 * 1024**2
    lose_next_run_reply: bool = False
    active_job_limit: int = 0
    watchers: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def change(self, job_id: str, status: str, **fields: object) -> None:
        """Set a job's status as the real gateway would, and wake whoever watches it."""
        with self.changed:
            job = self.jobs.setdefault(job_id, jobs_pb2.Job(job_id=job_id))
            state = types_pb2.JobState.Value("JOB_STATE_" + status.partition(":")[0])
            job.MergeFrom(jobs_pb2.Job(status=status, state=state, revision=job.revision + 1, **fields))  # type: ignore[arg-type]
            self.changed.notify_all()

    def set_tasks(self, job_id: str, *tasks: jobs_pb2.Task, **counts: int) -> None:
        """Set a job's tasks and their counts; the revision of the job stays as it is."""
        with self.changed:
            self.tasks[job_id] = list(tasks)
            self.jobs[job_id].task_counts.CopyFrom(types_pb2.TaskCounts(**counts))
            self.changed.notify_all()

    def set_worker(self, worker_id: str, state: str, leases: int = 0) -> None:
        """Tell of one worker as the real gateway would, and wake whoever watches."""
        with self.changed:
            shape = types_pb2.Resources(cpu_millis=16_000, mem_bytes=2**35)
            free = types_pb2.Resources(cpu_millis=4_000, mem_bytes=2**34)
            self.workers = [
                cluster_pb2.Worker(
                    worker_id=worker_id,
                    hostname="host",
                    capacity=shape,
                    free=free,
                    leases=leases,
                    draining=state != "open",
                    sandbox_tier="A",
                    state=cluster_pb2.WorkerState.Value(f"WORKER_STATE_{state.upper()}"),
                )
            ]
            self.changed.notify_all()

    def await_watchers(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.watchers >= count, timeout=60)


class _Functions(functions_pb2_grpc.FunctionServiceServicer):
    def __init__(self, state: State) -> None:
        self.state = state

    def UploadFunction(  # noqa: N802
        self, request_iterator: Iterator[functions_pb2.UploadFunctionRequest], context: grpc.ServicerContext
    ) -> functions_pb2.UploadFunctionResponse:
        header = next(request_iterator).header
        name = header.spec.title
        if not name.replace("_", "").replace("-", "").replace("/", "", 1).isalnum():
            fail(context, code_pb2.INVALID_ARGUMENT, "INVALID_FUNCTION", "Not a function.", title="only letters")
        if header.artifact_bytes > self.state.artifact_limit_bytes:
            fail(context, code_pb2.RESOURCE_EXHAUSTED, "ARTIFACT_TOO_LARGE", "Too large.")
        self.state.artifacts[name] = b"".join(part.chunk for part in request_iterator)
        function = functions_pb2.Function(spec=header.spec, version=header.artifact_digest)
        if "/" in name:
            function.provider, _, function.spec.title = name.partition("/")
            function.roles.append(types_pb2.ROLE_ADMIN)
        else:
            function.owner = "me"
        self.state.functions[name] = function
        return functions_pb2.UploadFunctionResponse(function=function, created=True)

    def GetFunction(  # noqa: N802
        self, request: functions_pb2.GetFunctionRequest, context: grpc.ServicerContext
    ) -> functions_pb2.GetFunctionResponse:
        if request.title not in self.state.functions:
            fail(context, code_pb2.NOT_FOUND, "FUNCTION_NOT_FOUND", f"There is no function {request.title!r}.")
        return functions_pb2.GetFunctionResponse(function=self.state.functions[request.title])

    def ListFunctions(  # noqa: N802
        self, request: functions_pb2.ListFunctionsRequest, _context: grpc.ServicerContext
    ) -> functions_pb2.ListFunctionsResponse:
        wanted = {functions_pb2.FUNCTION_FILTER_OF_PROVIDERS: (True,), functions_pb2.FUNCTION_FILTER_ALL: (True, False)}
        kinds = (True,) if request.provider else wanted.get(request.filter, (False,))
        names = [name for name in self.state.functions if ("/" in name) in kinds and name.startswith(request.provider)]
        start = int(request.page_token or 0)
        end = start + min(request.page_size, 2)  # Small pages, as if there were many functions.
        return functions_pb2.ListFunctionsResponse(
            functions=[self.state.functions[name] for name in names[start:end]],
            next_page_token=str(end) if end < len(names) else "",
        )


class _Jobs(jobs_pb2_grpc.JobServiceServicer):
    def __init__(self, state: State) -> None:
        self.state = state

    def UploadArguments(  # noqa: N802
        self, request_iterator: Iterator[jobs_pb2.UploadArgumentsRequest], _context: grpc.ServicerContext
    ) -> jobs_pb2.UploadArgumentsResponse:
        digest = next(request_iterator).header.digest
        self.state.arguments[digest] = b"".join(part.chunk for part in request_iterator)
        return jobs_pb2.UploadArgumentsResponse(digest=digest)

    def Run(self, request: jobs_pb2.RunRequest, context: grpc.ServicerContext) -> jobs_pb2.RunResponse:  # noqa: N802
        self.state.runs.append(request)
        if text := self.state.sharing.disabled.get(request.function_title):
            fail(context, code_pb2.FAILED_PRECONDITION, "FUNCTION_DISABLED", f"Its provider says: {text}")
        job_id = "job-" + request.idempotency_key
        if self.state.lose_next_run_reply:
            self.state.lose_next_run_reply = False
            self.state.change(job_id, "QUEUED")
            context.abort(grpc.StatusCode.UNAVAILABLE, "going down")
        created = job_id not in self.state.jobs
        active, most = (
            sum(job.status not in {"DONE", "ERROR", "CANCELED"} for job in self.state.jobs.values()),
            self.state.active_job_limit,
        )
        if created and 0 < most <= active:
            metadata = {"active": str(active), "limit": str(most)}
            text = f"ada may have {most}, and has {active}."
            fail(context, code_pb2.RESOURCE_EXHAUSTED, "ACTIVE_JOB_LIMIT", text, metadata=metadata)
        if created:
            provider, _, title = request.function_title.rpartition("/")
            self.state.change(job_id, "QUEUED", function_title=title, provider=provider)
        return jobs_pb2.RunResponse(job=self.state.jobs[job_id], created=created)

    def GetJob(self, request: jobs_pb2.GetJobRequest, context: grpc.ServicerContext) -> jobs_pb2.GetJobResponse:  # noqa: N802
        if request.job_id not in self.state.jobs:
            fail(context, code_pb2.NOT_FOUND, "JOB_NOT_FOUND", f"There is no job {request.job_id!r}.")
        return jobs_pb2.GetJobResponse(job=self.state.jobs[request.job_id])

    def ListJobs(  # noqa: N802
        self, request: jobs_pb2.ListJobsRequest, _context: grpc.ServicerContext
    ) -> jobs_pb2.ListJobsResponse:
        jobs = [job for job in self.state.jobs.values() if not request.states or job.state in request.states]
        return jobs_pb2.ListJobsResponse(jobs=jobs[: request.page_size])

    def WatchJob(  # noqa: N802
        self, request: jobs_pb2.WatchJobRequest, context: grpc.ServicerContext
    ) -> Iterator[jobs_pb2.WatchJobResponse]:
        seen, counts = request.after_revision, types_pb2.TaskCounts()
        job = self.state.jobs[request.job_id]
        with self.state.changed:
            self.state.watchers += 1
            self.state.changed.notify_all()
            while context.is_active():
                if job.revision > seen or job.task_counts != counts:
                    seen, counts = job.revision, types_pb2.TaskCounts.FromString(job.task_counts.SerializeToString())
                    yield jobs_pb2.WatchJobResponse(job=job)
                    if job.status in {"DONE", "ERROR", "CANCELED"}:
                        return
                self.state.changed.wait(0.1)

    def GetResult(  # noqa: N802
        self, request: jobs_pb2.GetResultRequest, context: grpc.ServicerContext
    ) -> Iterator[jobs_pb2.GetResultResponse]:
        if request.job_id not in self.state.jobs:
            fail(context, code_pb2.NOT_FOUND, "JOB_NOT_FOUND", f"There is no job {request.job_id!r}.")
        data = self.state.results[request.job_id]
        for start in range(0, len(data), 1000):
            yield jobs_pb2.GetResultResponse(chunk=data[start : start + 1000])

    def StreamLogs(  # noqa: N802
        self, request: jobs_pb2.StreamLogsRequest, _context: grpc.ServicerContext
    ) -> Iterator[jobs_pb2.StreamLogsResponse]:
        data = self.state.logs.get(request.job_id, self.state.log_of_any)
        kept = b"".join(data.splitlines(keepends=True)[-request.tail_lines :])
        for start in range(request.offset or len(data) - len(kept), len(data), 3):
            yield jobs_pb2.StreamLogsResponse(chunk=data[start : start + 3], offset=start)

    def ListTasks(  # noqa: N802
        self, request: jobs_pb2.ListTasksRequest, context: grpc.ServicerContext
    ) -> jobs_pb2.ListTasksResponse:
        if request.job_id not in self.state.jobs:
            fail(context, code_pb2.NOT_FOUND, "JOB_NOT_FOUND", f"There is no job {request.job_id!r}.")
        self.state.task_calls += 1
        tasks = self.state.tasks.get(request.job_id, [])
        counts = Counter(task.state for task in tasks)
        wanted = [
            task
            for task in tasks
            if (not request.states or task.state in request.states) and request.name in {"", task.name}
        ]
        start = int(request.page_token or 0)
        end = start + min(request.page_size, 3)  # Small pages, as if there were many tasks.
        return jobs_pb2.ListTasksResponse(
            tasks=wanted[start:end],
            next_page_token=str(end) if end < len(wanted) else "",
            counts=[jobs_pb2.TaskStateCount(state=state, count=count) for state, count in sorted(counts.items())],
            attempt=request.attempt or 1,
        )

    def CancelJob(  # noqa: N802
        self, request: jobs_pb2.CancelJobRequest, _context: grpc.ServicerContext
    ) -> jobs_pb2.CancelJobResponse:
        self.state.change(request.job_id, "CANCELED")
        return jobs_pb2.CancelJobResponse(job=self.state.jobs[request.job_id], message="Canceled.")


class _Cluster(FakeUsers):
    def __init__(self, state: State) -> None:
        super().__init__(state.people)
        self.state = state

    def GetInfo(  # noqa: N802
        self, _request: cluster_pb2.GetInfoRequest, _context: grpc.ServicerContext
    ) -> cluster_pb2.GetInfoResponse:
        return cluster_pb2.GetInfoResponse(
            user=ME, version="0.1.0", artifact_limit_bytes=self.state.artifact_limit_bytes
        )

    def ListWorkers(  # noqa: N802
        self, _request: cluster_pb2.ListWorkersRequest, _context: grpc.ServicerContext
    ) -> cluster_pb2.ListWorkersResponse:
        return cluster_pb2.ListWorkersResponse(workers=self.state.workers)

    def WatchWorkers(  # noqa: N802
        self, _request: cluster_pb2.WatchWorkersRequest, context: grpc.ServicerContext
    ) -> Iterator[cluster_pb2.WatchWorkersResponse]:
        sent = None
        with self.state.changed:
            self.state.watchers += 1
            self.state.changed.notify_all()
            while context.is_active():
                if self.state.workers != sent:
                    sent = self.state.workers
                    yield cluster_pb2.WatchWorkersResponse(workers=sent)
                self.state.changed.wait(0.1)

    def DrainWorker(  # noqa: N802
        self, request: cluster_pb2.DrainWorkerRequest, context: grpc.ServicerContext
    ) -> cluster_pb2.DrainWorkerResponse:
        self._known(request.worker_id, context)
        self.state.set_worker(request.worker_id, "draining", leases=2)
        return cluster_pb2.DrainWorkerResponse()

    def ResumeWorker(  # noqa: N802
        self, request: cluster_pb2.ResumeWorkerRequest, context: grpc.ServicerContext
    ) -> cluster_pb2.ResumeWorkerResponse:
        self._known(request.worker_id, context)
        self.state.set_worker(request.worker_id, "open")
        return cluster_pb2.ResumeWorkerResponse()

    def _known(self, worker_id: str, context: grpc.ServicerContext) -> None:
        known = [worker.worker_id for worker in self.state.workers]
        if worker_id not in known:
            text = f"There is no worker {worker_id!r}. There are {', '.join(known)}."
            fail(context, code_pb2.NOT_FOUND, "WORKER_NOT_FOUND", text)

    def GetQueue(  # noqa: N802
        self, _request: cluster_pb2.GetQueueRequest, _context: grpc.ServicerContext
    ) -> cluster_pb2.GetQueueResponse:
        return cluster_pb2.GetQueueResponse(entries=self.state.queue, total=len(self.state.queue))

    def ListUsers(  # noqa: N802
        self, _request: cluster_pb2.ListUsersRequest, _context: grpc.ServicerContext
    ) -> cluster_pb2.ListUsersResponse:
        return cluster_pb2.ListUsersResponse(users=self.state.people.users.values())

    def SetUserLimit(  # noqa: N802
        self, request: cluster_pb2.SetUserLimitRequest, context: grpc.ServicerContext
    ) -> cluster_pb2.SetUserLimitResponse:
        if request.name not in self.state.people.users:
            fail(context, code_pb2.NOT_FOUND, "USER_NOT_FOUND", f"There is no user {request.name!r}.")
        user = self.state.people.users[request.name]
        if request.reset:
            user.limit.CopyFrom(types_pb2.Resources(cpu_millis=16_000, mem_bytes=2**35))
        for name in ("cpu_millis", "mem_bytes", "gpus"):
            if request.HasField(name):
                setattr(user.limit, name, getattr(request, name))
        if request.HasField("qpu_seconds"):
            user.qpu_seconds_limit = request.qpu_seconds
        if request.HasField("file_bytes"):
            user.file_bytes_limit = request.file_bytes
        if request.HasField("active_jobs"):
            user.active_jobs_limit = request.active_jobs
        if request.HasField("running_jobs"):
            user.running_jobs_limit = request.running_jobs
        if request.HasField("time_limit_seconds"):
            user.time_limit_seconds_limit = request.time_limit_seconds
        return cluster_pb2.SetUserLimitResponse(user=user)


class _Guard(grpc.ServerInterceptor):
    def intercept_service(self, continuation: Any, details: Any) -> Any:
        if ("authorization", f"Bearer {TOKEN}") in details.invocation_metadata:
            return continuation(details)

        def refuse(_request: object, context: grpc.ServicerContext) -> NoReturn:
            fail(context, code_pb2.UNAUTHENTICATED, "INVALID_TOKEN", "This token is not known here.")

        return grpc.unary_unary_rpc_method_handler(refuse)


class FakeGateway:
    """Serves on a loopback port, which stays the same over `stop` and `start`."""

    def __init__(self) -> None:
        self.state = State()
        self.files = FakeFiles(self.state.files)
        self.port = 0
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self._server = grpc.server(
            futures.ThreadPoolExecutor(8), interceptors=[_Guard()], options=[("grpc.so_reuseport", 0)]
        )
        functions_pb2_grpc.add_FunctionServiceServicer_to_server(_Functions(self.state), self._server)
        jobs_pb2_grpc.add_JobServiceServicer_to_server(_Jobs(self.state), self._server)
        files_pb2_grpc.add_FileServiceServicer_to_server(self.files, self._server)
        cluster_pb2_grpc.add_ClusterServiceServicer_to_server(_Cluster(self.state), self._server)
        qpu_pb2_grpc.add_QpuServiceServicer_to_server(FakeQpus(self.state.qpu), self._server)
        sharing = FakeProviders(self.state.sharing)
        providers_pb2_grpc.add_ProviderServiceServicer_to_server(sharing, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(grace=None).wait()
