"""QpuService: what the QPU broker knows, read from the shapes of the runtime API."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import grpc
from qonduit_api.v1 import qpu_pb2, qpu_pb2_grpc
from qonduit_service_kit.errors import ApiError

from qonduit_gateway.api import paging, qpu_convert
from qonduit_gateway.api.callers import caller
from qonduit_gateway.database import charge_rows, job_rows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.qpu_link import Answer, QpuLink

_PIECE_BYTES = 512 * 1024
_PAGE = 200
"""Most that the broker lists at once."""
BUDGET_WINDOW_S = 28 * 24 * 3600.0
"""Over which a user's QPU seconds are summed, as a provider's plans do."""


class QpuService(qpu_pb2_grpc.QpuServiceServicer):  # type: ignore[misc,unused-ignore]
    """Tells about devices, QPU jobs and sessions, and ends them. Those of others look as if they weren't there."""

    def __init__(
        self,
        link: QpuLink,
        database: Database,
        *,
        default_qpu_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._link = link
        self._database = database
        self._default_qpu_seconds = default_qpu_seconds
        self._clock = clock

    async def ListBackends(  # noqa: N802 - named by the API.
        self, request: qpu_pb2.ListBackendsRequest, context: Any
    ) -> qpu_pb2.ListBackendsResponse:
        """List the devices by name."""
        del request, context
        devices = await self._devices()
        backends = [qpu_convert.backend(device) for device in devices]
        return qpu_pb2.ListBackendsResponse(backends=sorted(backends, key=lambda backend: backend.name))

    async def GetBackend(  # noqa: N802
        self, request: qpu_pb2.GetBackendRequest, context: Any
    ) -> AsyncIterator[qpu_pb2.GetBackendResponse]:
        """Stream one device with its configuration and properties."""
        del context
        devices = {device.get("name"): device for device in await self._devices()}
        device = devices.get(request.name)
        if device is None:
            names = ", ".join(sorted(str(name) for name in devices))
            text = f"There is no backend {request.name!r}. There are: {names or 'none'}."
            raise ApiError(grpc.StatusCode.NOT_FOUND, "BACKEND_NOT_FOUND", text, metadata={"name": request.name})
        yield qpu_pb2.GetBackendResponse(backend=qpu_convert.backend(device))
        path = f"/backends/{quote(request.name, safe='')}"
        configuration = _good(await self._link.get(caller().name, f"{path}/configuration"))
        for piece in _pieces(configuration.body):
            yield qpu_pb2.GetBackendResponse(configuration=piece)
        properties = await self._link.get(caller().name, f"{path}/properties")
        # A device without calibration has none.
        for piece in _pieces(b"" if properties.not_found else _good(properties).body):
            yield qpu_pb2.GetBackendResponse(properties=piece)

    async def ListQpuJobs(  # noqa: N802
        self, request: qpu_pb2.ListQpuJobsRequest, context: Any
    ) -> qpu_pb2.ListQpuJobsResponse:
        """List the QPU jobs of one of the caller's jobs, or a page of all that the caller has."""
        del context
        if not request.job_id:
            found, token = await self._page("/jobs", "jobs", request)
            return qpu_pb2.ListQpuJobsResponse(qpu_jobs=map(qpu_convert.qpu_job, found), next_page_token=token)
        owner, job_id = caller().name, request.job_id
        mine = await self._database.read(lambda connection: job_rows.owned(connection, owner, [job_id]))
        if not mine:
            text = f"There is no job {job_id[:100]!r} of yours."
            raise ApiError(grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", text, metadata={"job_id": job_id[:100]})
        jobs = [qpu_convert.qpu_job(each) for each in await self._jobs(owner, job_id, pending=request.pending)]
        return qpu_pb2.ListQpuJobsResponse(qpu_jobs=sorted(jobs, key=lambda each: each.create_time.ToNanoseconds()))

    async def ListQpuSessions(  # noqa: N802
        self, request: qpu_pb2.ListQpuSessionsRequest, context: Any
    ) -> qpu_pb2.ListQpuSessionsResponse:
        """List a page of the caller's sessions and batches."""
        del context
        found, token = await self._page("/sessions", "sessions", request)
        return qpu_pb2.ListQpuSessionsResponse(sessions=map(qpu_convert.session, found), next_page_token=token)

    async def GetQpuStatus(  # noqa: N802
        self, request: qpu_pb2.GetQpuStatusRequest, context: Any
    ) -> qpu_pb2.GetQpuStatusResponse:
        """Tell how instances and queues are, and what the caller has used; CRNs are for administrators."""
        del request, context
        user, since = caller(), self._clock() - BUDGET_WINDOW_S
        overview = _good(await self._link.get(user.name, "/status")).json()
        used = await self._database.read(
            lambda connection: charge_rows.total_of_user(connection, user.name, since=since)
        )
        queues = [qpu_convert.queue(each) for each in overview.get("devices", [])]
        return qpu_pb2.GetQpuStatusResponse(
            instances=[qpu_convert.instance(each, whole=user.administrator) for each in overview.get("instances", [])],
            queues=sorted(queues, key=lambda each: each.backend),
            qpu_seconds_used=used,
            qpu_seconds_limit=user.limit.qpu_seconds_over(self._default_qpu_seconds),
        )

    async def CancelQpuJob(  # noqa: N802
        self, request: qpu_pb2.CancelQpuJobRequest, context: Any
    ) -> qpu_pb2.CancelQpuJobResponse:
        """Cancel a QPU job of the caller."""
        del context
        owner, qpu_job_id = caller().name, request.qpu_job_id
        path = f"/jobs/{quote(qpu_job_id, safe='')}"
        answer = await self._link.change(owner, "POST", f"{path}/cancel")
        if answer.not_found:
            raise _no_job(qpu_job_id)
        if answer.conflicts:
            text = f"{answer.message} Nothing was changed: what it cost stays charged."
            metadata = {"qpu_job_id": qpu_job_id[:100]}
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "QPU_JOB_OVER", text, metadata=metadata)
        _good(answer)
        # Without its params, which may be large.
        query = (("exclude_params", "true"),)
        after = _good(await self._link.get(owner, path, query=query)).json()
        return qpu_pb2.CancelQpuJobResponse(qpu_job=qpu_convert.qpu_job(after))

    async def CloseQpuSession(  # noqa: N802
        self, request: qpu_pb2.CloseQpuSessionRequest, context: Any
    ) -> qpu_pb2.CloseQpuSessionResponse:
        """End a session of the caller; the same again is answered the same."""
        del context
        owner, session_id = caller().name, request.session_id
        path = f"/sessions/{quote(session_id, safe='')}"
        if request.mode == qpu_pb2.QPU_SESSION_END_CANCEL:
            answer = await self._link.change(owner, "DELETE", f"{path}/close")
        else:
            body = json.dumps({"accepting_jobs": False}).encode()
            answer = await self._link.change(owner, "PATCH", path, body=body)
        if answer.not_found:
            text = f"There is no QPU session {session_id[:100]!r} of yours. List your sessions to see which there are."
            metadata = {"session_id": session_id[:100]}
            raise ApiError(grpc.StatusCode.NOT_FOUND, "QPU_SESSION_NOT_FOUND", text, metadata=metadata)
        _good(answer)
        after = _good(await self._link.get(owner, path)).json()
        return qpu_pb2.CloseQpuSessionResponse(session=qpu_convert.session(after))

    async def _page(
        self, path: str, name: str, request: qpu_pb2.ListQpuJobsRequest | qpu_pb2.ListQpuSessionsRequest
    ) -> tuple[list[dict[str, Any]], str]:
        """Return a page of what the caller has, and the token for the next one."""
        size = min(paging.page_size(request.page_size), _PAGE)
        before = paging.from_token(request.page_token, int)
        query = [("limit", str(size)), ("qonduit_before", "" if before is None else str(before))]
        if request.pending:
            query.append(("pending", "true"))
        page = _good(await self._link.get(caller().name, path, query=tuple(query))).json()
        following = page.get("next")
        return page.get(name, []), "" if following is None else paging.to_token(following)

    async def _jobs(self, owner: str, job_id: str, *, pending: bool) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            query = [("qonduit_job_id", job_id), ("limit", str(_PAGE)), ("offset", str(len(found)))]
            if pending:
                query.append(("pending", "true"))
            page = _good(await self._link.get(owner, "/jobs", query=tuple(query))).json()
            found += page.get("jobs", [])
            if not page.get("jobs") or len(found) >= page.get("count", 0):
                return found

    async def _devices(self) -> list[dict[str, Any]]:
        answer = _good(await self._link.get(caller().name, "/backends"))
        listed = answer.json().get("devices", [])
        return [device if isinstance(device, dict) else {"name": device} for device in listed]


def _no_job(qpu_job_id: str) -> ApiError:
    text = f"There is no QPU job {qpu_job_id[:100]!r} of yours. List your QPU jobs to see which there are."
    metadata = {"qpu_job_id": qpu_job_id[:100]}
    return ApiError(grpc.StatusCode.NOT_FOUND, "QPU_JOB_NOT_FOUND", text, metadata=metadata)


def _good(answer: Answer) -> Answer:
    if answer.ok:
        return answer
    text = f"The QPU broker refused with {answer.status}: {answer.message}"
    raise ApiError(grpc.StatusCode.INTERNAL, "QPU_BROKER_ERROR", text, metadata={"status": str(answer.status)})


def _pieces(body: bytes) -> list[bytes]:
    return [body[start : start + _PIECE_BYTES] for start in range(0, len(body), _PIECE_BYTES)]
