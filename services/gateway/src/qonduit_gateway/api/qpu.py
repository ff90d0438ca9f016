"""QpuService: what the QPU broker knows, read from the shapes of the runtime API."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from qonduit_api.v1 import qpu_pb2, qpu_pb2_grpc
from qonduit_service_kit.errors import ApiError

from qonduit_gateway.api.callers import caller
from qonduit_gateway.database import job_rows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.qpu_link import Answer, QpuLink

_PIECE_BYTES = 512 * 1024
_PAGE = "200"


class QpuService(qpu_pb2_grpc.QpuServiceServicer):  # type: ignore[misc,unused-ignore]
    """Tells about devices and QPU jobs."""

    def __init__(self, link: QpuLink, database: Database) -> None:
        self._link = link
        self._database = database

    async def ListBackends(  # noqa: N802 - named by the API.
        self, request: qpu_pb2.ListBackendsRequest, context: Any
    ) -> qpu_pb2.ListBackendsResponse:
        """List the devices by name."""
        del request, context
        devices = await self._devices()
        backends = [_backend(device) for device in devices]
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
        yield qpu_pb2.GetBackendResponse(backend=_backend(device))
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
        """List the QPU jobs of one of the caller's jobs."""
        del context
        owner, job_id = caller().name, request.job_id
        mine = await self._database.read(lambda connection: job_rows.owned(connection, owner, [job_id]))
        if not mine:
            text = f"There is no job {job_id[:100]!r} of yours."
            raise ApiError(grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", text, metadata={"job_id": job_id[:100]})
        jobs = [_qpu_job(job_id, each) for each in await self._jobs(owner, job_id)]
        return qpu_pb2.ListQpuJobsResponse(qpu_jobs=sorted(jobs, key=lambda each: each.create_time.ToNanoseconds()))

    async def _jobs(self, owner: str, job_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            query = (("qonduit_job_id", job_id), ("limit", _PAGE), ("offset", str(len(found))))
            page = _good(await self._link.get(owner, "/jobs", query=query)).json()
            found += page.get("jobs", [])
            if not page.get("jobs") or len(found) >= page.get("count", 0):
                return found

    async def _devices(self) -> list[dict[str, Any]]:
        answer = _good(await self._link.get(caller().name, "/backends"))
        listed = answer.json().get("devices", [])
        return [device if isinstance(device, dict) else {"name": device} for device in listed]


def _good(answer: Answer) -> Answer:
    if answer.ok:
        return answer
    text = f"The QPU broker refused with {answer.status}: {answer.body[:500].decode('utf-8', 'replace')}"
    raise ApiError(grpc.StatusCode.INTERNAL, "QPU_BROKER_ERROR", text, metadata={"status": str(answer.status)})


def _backend(device: dict[str, Any]) -> qpu_pb2.Backend:
    status = device.get("status")
    return qpu_pb2.Backend(
        name=str(device.get("name", "")),
        qubits=int(device.get("qubits") or 0),
        status=str(status.get("name", "") if isinstance(status, dict) else status or ""),
        queue_length=int(device.get("queue_length") or 0),
        simulated=bool(device.get("qonduit_simulated", False)),
    )


def _qpu_job(job_id: str, found: dict[str, Any]) -> qpu_pb2.QpuJob:
    state, times = found.get("state") or {}, found.get("timestamps") or {}
    made = qpu_pb2.QpuJob(
        qpu_job_id=str(found.get("id", "")),
        job_id=job_id,
        backend=str(found.get("backend", "")),
        state=str(state.get("status") or found.get("status") or ""),
        program=str((found.get("program") or {}).get("id", "")),
        session_id=str(found.get("session_id") or ""),
        qpu_seconds=float(found.get("qpu_seconds") or 0.0),
    )
    for field, key in (("create_time", "created"), ("start_time", "running"), ("end_time", "finished")):
        at = _timestamp(times.get(key))
        if at is not None:
            getattr(made, field).CopyFrom(at)
    return made


def _timestamp(text: object) -> Timestamp | None:
    if not isinstance(text, str):
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    made = Timestamp()
    made.FromDatetime((at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC))
    return made


def _pieces(body: bytes) -> list[bytes]:
    return [body[start : start + _PIECE_BYTES] for start in range(0, len(body), _PIECE_BYTES)]
