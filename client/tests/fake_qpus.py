"""The QPU service of the gateway in this process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fake_refusals import fail
from google.rpc import code_pb2  # type: ignore[import-untyped]
from qonduit_api.v1 import qpu_pb2, qpu_pb2_grpc

if TYPE_CHECKING:
    import grpc


@dataclass
class QpuWorld:
    """What there is, newest first, and what was asked."""

    backends: list[qpu_pb2.Backend] = field(default_factory=list)
    jobs: list[qpu_pb2.QpuJob] = field(default_factory=list)
    sessions: list[qpu_pb2.QpuSession] = field(default_factory=list)
    status: qpu_pb2.GetQpuStatusResponse = field(default_factory=qpu_pb2.GetQpuStatusResponse)
    closed: list[qpu_pb2.CloseQpuSessionRequest] = field(default_factory=list)


class FakeQpus(qpu_pb2_grpc.QpuServiceServicer):
    """Answers from a QpuWorld, in small pages."""

    def __init__(self, world: QpuWorld) -> None:
        self.world = world

    def ListBackends(  # noqa: N802
        self, _request: qpu_pb2.ListBackendsRequest, _context: grpc.ServicerContext
    ) -> qpu_pb2.ListBackendsResponse:
        return qpu_pb2.ListBackendsResponse(backends=self.world.backends)

    def ListQpuJobs(  # noqa: N802
        self, request: qpu_pb2.ListQpuJobsRequest, _context: grpc.ServicerContext
    ) -> qpu_pb2.ListQpuJobsResponse:
        jobs = [
            job
            for job in self.world.jobs
            if request.job_id in {"", job.job_id} and not (request.pending and job.HasField("end_time"))
        ]
        if request.job_id:
            return qpu_pb2.ListQpuJobsResponse(qpu_jobs=jobs[::-1])
        start = int(request.page_token or 0)
        end = start + min(request.page_size, 2)
        following = str(end) if end < len(jobs) else ""
        return qpu_pb2.ListQpuJobsResponse(qpu_jobs=jobs[start:end], next_page_token=following)

    def ListQpuSessions(  # noqa: N802
        self, request: qpu_pb2.ListQpuSessionsRequest, _context: grpc.ServicerContext
    ) -> qpu_pb2.ListQpuSessionsResponse:
        start = int(request.page_token or 0)
        end = start + min(request.page_size, 1)
        sessions = [each for each in self.world.sessions if not (request.pending and each.state == "closed")]
        following = str(end) if end < len(sessions) else ""
        return qpu_pb2.ListQpuSessionsResponse(sessions=sessions[start:end], next_page_token=following)

    def GetQpuStatus(  # noqa: N802
        self, _request: qpu_pb2.GetQpuStatusRequest, _context: grpc.ServicerContext
    ) -> qpu_pb2.GetQpuStatusResponse:
        return self.world.status

    def CancelQpuJob(  # noqa: N802
        self, request: qpu_pb2.CancelQpuJobRequest, context: grpc.ServicerContext
    ) -> qpu_pb2.CancelQpuJobResponse:
        found = next((job for job in self.world.jobs if job.qpu_job_id == request.qpu_job_id), None)
        if found is None:
            text = f"There is no QPU job {request.qpu_job_id!r} of yours."
            fail(context, code_pb2.NOT_FOUND, "QPU_JOB_NOT_FOUND", text)
        if found.HasField("end_time"):
            text = f"Job {found.qpu_job_id} is {found.state} and can't be cancelled."
            fail(context, code_pb2.FAILED_PRECONDITION, "QPU_JOB_OVER", text)
        if found.state == "Queued":
            found.state = "Cancelled"
            found.qpu_seconds_final = True
            found.end_time.FromSeconds(1_800_000_000)
        return qpu_pb2.CancelQpuJobResponse(qpu_job=found)

    def CloseQpuSession(  # noqa: N802
        self, request: qpu_pb2.CloseQpuSessionRequest, context: grpc.ServicerContext
    ) -> qpu_pb2.CloseQpuSessionResponse:
        found = next((each for each in self.world.sessions if each.session_id == request.session_id), None)
        if found is None:
            text = f"There is no QPU session {request.session_id!r} of yours."
            fail(context, code_pb2.NOT_FOUND, "QPU_SESSION_NOT_FOUND", text)
        self.world.closed.append(request)
        found.accepting_jobs = False
        if request.mode == qpu_pb2.QPU_SESSION_END_CANCEL:
            found.unfinished_jobs, found.state = 0, "closed"
        return qpu_pb2.CloseQpuSessionResponse(session=found)
