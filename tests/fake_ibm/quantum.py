"""The quantum REST: devices, jobs, sessions, workloads, usage."""

from __future__ import annotations

import json
import secrets
import time
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web
from qonduit_qpu_broker.local.catalog import DeviceCatalog, UnknownDeviceError, mock_of

from fake_ibm.faults import refusal
from fake_ibm.running import Running
from fake_ibm.state import Instance, UpstreamJob, UpstreamSession

BASE: Final = "/experimental/api/v1"
INSTANCE: Final = web.RequestKey("instance", Instance)
"""On a request: the instance that it is for."""
_PROGRAMS: Final = frozenset({"sampler", "estimator", "executor"})
_MOST_LISTED: Final = 200
_MOST_TTL_S: Final = 28_800
_MINUTE_S: Final = 60.0


class Quantum:
    """One region of the service.

    Attributes:
        devices: Those that are offered.
        offline: Those of them that take no jobs.
        submissions_a_minute: The limit of POST /jobs; None for none.
        tag_lag_s: How much later than a job exists it is found by its tags.
        usage_pending_s: How long after a job's end its charge is not final.
        lost_results: Jobs whose results cannot be read.
        idle_ttl_s: A session in which nothing was submitted for this long is closed.
    """

    def __init__(self, devices: tuple[str, ...]) -> None:
        self.devices = devices
        self._names = {mock_of(name): name for name in devices} | {name: name for name in devices}
        """The device that each name stands for: itself, or in a dry run another."""
        self.running = Running(self._began, self._ended)
        self._catalog = DeviceCatalog()
        self.forget()

    def forget(self) -> None:
        """Be as new, but for what runs."""
        self.offline: set[str] = set()
        self.submissions_a_minute: int | None = None
        self.tag_lag_s = 0.0
        self.usage_pending_s = 0.0
        self.lost_results: set[str] = set()
        self.jobs: dict[str, UpstreamJob] = {}
        self.sessions: dict[str, UpstreamSession] = {}
        self._submitted: list[float] = []
        self.running.queue_s = self.running.run_s = 0.0

    def routes(self) -> list[web.RouteDef]:
        """Return what it serves."""
        return [
            web.get(BASE + "/backends", self._backends),
            web.get(BASE + "/backends/{name}/configuration", self._configuration),
            web.get(BASE + "/backends/{name}/properties", self._properties),
            web.get(BASE + "/backends/{name}/status", self._status),
            web.get(BASE + "/instances/usage", self._usage),
            web.post(BASE + "/jobs", self._submit),
            web.get(BASE + "/jobs", self._list),
            web.get(BASE + "/jobs/{job_id}", self._get),
            web.delete(BASE + "/jobs/{job_id}", self._delete),
            web.get(BASE + "/jobs/{job_id}/results", self._results),
            web.get(BASE + "/jobs/{job_id}/metrics", self._metrics),
            web.get(BASE + "/jobs/{job_id}/logs", self._logs),
            web.post(BASE + "/jobs/{job_id}/cancel", self._cancel),
            web.put(BASE + "/jobs/{job_id}/tags", self._tags),
            web.post(BASE + "/sessions", self._open_session),
            web.get(BASE + "/sessions/{session_id}", self._get_session),
            web.patch(BASE + "/sessions/{session_id}", self._close_session),
            web.delete(BASE + "/sessions/{session_id}/close", self._cancel_session),
            web.get(BASE + "/workloads", self._workloads),
        ]

    @property
    def billed_s(self) -> float:
        """All QPU seconds that would have been billed so far: jobs and batches by job, sessions by the clock."""
        now = time.time()
        in_sessions = {s.session_id for s in self.sessions.values() if s.mode == "dedicated"}
        by_job = sum(job.charged_s for job in self.jobs.values() if job.session_id not in in_sessions)
        return by_job + sum(session.held_s(now) for session in self.sessions.values())

    # --- Devices -------------------------------------------------------------------------------

    async def _backends(self, request: web.Request) -> web.Response:
        devices = []
        for name, real in self._names.items():
            if name != real and request.query.get("include_mocks") != "True":
                continue
            facts = self._catalog.facts(real)
            state = "offline" if name in self.offline else "online"
            devices.append(
                {
                    "name": name,
                    "status": {"name": state, "reason": ""},
                    "qubits": facts.qubits,
                    "queue_length": self._waiting(name),
                    "is_simulator": False,
                    "processor_type": {"family": facts.family, "revision": facts.revision},
                    "basis_gates": list(facts.basis_gates),
                    **({} if name == real else {"class": "mock"}),
                }
            )
        return web.json_response({"devices": devices})

    def _waiting(self, name: str) -> int:
        return sum(job.backend == name and job.status == "Queued" for job in self.jobs.values())

    def _known(self, name: str) -> str:
        if name not in self._names:
            raise UnknownDeviceError(name)
        return name

    async def _configuration(self, request: web.Request) -> web.Response:
        name = self._known(request.match_info["name"])
        return web.json_response(self._catalog.configuration(self._names[name]) | {"backend_name": name})

    async def _properties(self, request: web.Request) -> web.Response:
        name = self._known(request.match_info["name"])
        properties = self._catalog.properties(self._names[name])
        return web.json_response(properties | {"backend_name": name} if properties else {})

    async def _status(self, request: web.Request) -> web.Response:
        name = self._known(request.match_info["name"])
        online = name not in self.offline
        return web.json_response(
            {
                "state": online,
                "status": "active" if online else "offline",
                "message": "",
                "length_queue": self._waiting(name),
                "backend_version": self._catalog.facts(self._names[name]).version,
            }
        )

    async def _usage(self, request: web.Request) -> web.Response:
        instance: Instance = request[INSTANCE]
        consumed = self._consumed_s(instance)
        return web.json_response(
            {
                "instance_id": instance.crn,
                "plan_id": instance.plan,
                "usage_consumed_seconds": consumed,
                "usage_limit_seconds": instance.limit_s,
                "usage_allocation_seconds": instance.limit_s,
                "usage_limit_reached": consumed >= instance.limit_s,
                "usage_period": {},
            }
        )

    def _consumed_s(self, instance: Instance) -> float:
        return sum(job.charged_s for job in self.jobs.values() if job.crn == instance.crn)

    # --- Jobs ----------------------------------------------------------------------------------

    async def _submit(self, request: web.Request) -> web.Response:
        instance: Instance = request[INSTANCE]
        body = await request.read()
        posted = json.loads(body)
        session = self.sessions.get(posted.get("session_id", ""))
        now = time.time()
        self._submitted = [at for at in self._submitted if at > now - _MINUTE_S]
        if self.submissions_a_minute is not None and len(self._submitted) >= self.submissions_a_minute:
            wait_s = self._submitted[0] + _MINUTE_S - now
            return refusal(429, "Too many requests.", code=1202, headers={"Retry-After": f"{wait_s:.0f}"})
        if posted["backend"] not in self._names:
            return refusal(400, f"Backend {posted['backend']} not found.", code=1007)
        if posted["program_id"] not in _PROGRAMS:
            return refusal(404, "Program not found.", code=1103)
        if self._consumed_s(instance) >= instance.limit_s:
            return refusal(409, "Usage exceeds instance limit.", code=1515)
        if posted.get("session_id") and (session is None or not session.accepting or session.state(now) == "closed"):
            return refusal(400, "The session is closed.", code=1217)
        self._submitted.append(now)
        job = UpstreamJob(
            job_id=f"d{secrets.token_hex(10)}",
            crn=instance.crn,
            program=posted["program_id"],
            backend=posted["backend"],
            device=self._names[posted["backend"]],
            body=body,
            api_version=request.headers.get("IBM-API-Version", ""),
            echo=json.dumps(posted["params"]).encode() if "echo" in posted["params"] else None,
            session_id=posted.get("session_id", ""),
            tags=list(posted.get("tags") or ()),
            private=bool(posted.get("private")),
            cost_s=posted.get("cost") or 0,
        )
        self.jobs[job.job_id] = job
        self.running.submit(job)
        return web.json_response({"id": job.job_id, "backend": job.backend})

    def _job(self, request: web.Request) -> UpstreamJob:
        job = self.jobs.get(request.match_info["job_id"])
        if job is None or job.deleted or job.crn != request[INSTANCE].crn:
            raise web.HTTPNotFound(reason="Job not found.")
        return job

    def _usage_status(self, job: UpstreamJob) -> str:
        ended = job.finished_at is not None and time.time() >= job.finished_at + self.usage_pending_s
        return "complete" if ended else "pending"

    async def _get(self, request: web.Request) -> web.Response:
        job = self._job(request)
        document = job.document(usage_status=self._usage_status(job))
        if request.query.get("exclude_params") != "true":
            document["params"] = json.loads(job.body)["params"]
        return web.json_response(document)

    async def _list(self, request: web.Request) -> web.Response:
        query, now = request.query, time.time()
        wanted_tags = set(query.getall("tags", []))
        found = [
            job
            for job in self.jobs.values()
            if job.crn == request[INSTANCE].crn
            and not job.deleted
            and (job.device == job.backend or query.get("include_mocks") == "True")
            and wanted_tags <= set(job.tags)
            and (not wanted_tags or job.created_at + self.tag_lag_s <= now)
            and query.get("backend", job.backend) == job.backend
            and query.get("program", job.program) == job.program
            and query.get("session_id", job.session_id) == job.session_id
            and query.get("pending", str(not job.final).lower()) == str(not job.final).lower()
            and _moment(query.get("created_after"), 0.0) <= job.created_at <= _moment(query.get("created_before"), now)
        ]
        found.sort(key=lambda job: job.created_at, reverse=query.get("sort", "DESC") != "ASC")
        offset, limit = int(query.get("offset", 0)), min(_MOST_LISTED, int(query.get("limit", _MOST_LISTED)))
        page = [job.document(usage_status=self._usage_status(job)) for job in found[offset : offset + limit]]
        return web.json_response({"jobs": page, "count": len(found), "limit": limit, "offset": offset})

    async def _results(self, request: web.Request) -> web.Response:
        job = self._job(request)
        if job.job_id in self.lost_results:
            return refusal(500, "The result is lost.")
        if job.result is None or (job.private and job.results_read):
            return web.Response(status=204)
        job.results_read += 1
        return web.Response(body=job.result, content_type="application/json")

    async def _metrics(self, request: web.Request) -> web.Response:
        job = self._job(request)
        return web.json_response(job.metrics(usage_status=self._usage_status(job)))

    async def _logs(self, request: web.Request) -> web.Response:
        return web.Response(text=f"log of {self._job(request).job_id}\n")

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self._job(request)
        if job.final:
            return refusal(409, f"Job already in state {job.status}.", code=1306)
        await self.running.cancel(job)
        return web.Response(status=204)

    async def _delete(self, request: web.Request) -> web.Response:
        self._job(request).deleted = True
        return web.Response(status=204)

    async def _tags(self, request: web.Request) -> web.Response:
        self._job(request).tags = list((await request.json())["tags"])
        return web.Response(status=204)

    # --- Sessions ------------------------------------------------------------------------------

    async def _open_session(self, request: web.Request) -> web.Response:
        instance: Instance = request[INSTANCE]
        posted = await request.json()
        mode = posted.get("mode", "dedicated")
        if mode == "dedicated" and instance.plan == "open":
            return refusal(400, "You are not authorized to run a session when using the open plan.", code=1352)
        ttl_s = min(_MOST_TTL_S, int(posted.get("max_ttl") or _MOST_TTL_S))
        session = UpstreamSession(f"s{secrets.token_hex(10)}", instance.crn, mode, posted.get("backend", ""), ttl_s)
        self.sessions[session.session_id] = session
        return web.json_response(session.document(time.time()))

    def _session(self, request: web.Request) -> UpstreamSession:
        session = self.sessions.get(request.match_info["session_id"])
        if session is None or session.crn != request[INSTANCE].crn:
            raise web.HTTPNotFound(reason="Session not found.")
        return session

    async def _get_session(self, request: web.Request) -> web.Response:
        return web.json_response(self._session(request).document(time.time()))

    async def _close_session(self, request: web.Request) -> web.Response:
        session = self._session(request)
        session.accepting = bool((await request.json()).get("accepting_jobs", True))
        self._settle(session)
        await self.running.tell()
        return web.Response(status=204)

    async def _cancel_session(self, request: web.Request) -> web.Response:
        session = self._session(request)
        session.accepting = False
        for job in list(self.jobs.values()):
            if job.session_id == session.session_id and job.status == "Queued":
                await self.running.cancel(job)
        self._settle(session)
        await self.running.tell()
        return web.Response(status=204)

    def _began(self, job: UpstreamJob) -> None:
        session = self.sessions.get(job.session_id)
        if session is not None and session.activated_at is None:
            session.activated_at = job.running_at

    def _ended(self, job: UpstreamJob) -> None:
        session = self.sessions.get(job.session_id)
        if session is not None:
            self._settle(session)

    def _settle(self, session: UpstreamSession) -> None:
        """Close a session that takes no more and whose last job has ended."""
        left = any(job.session_id == session.session_id and not job.final for job in self.jobs.values())
        if not session.accepting and not left and session.closed_at is None:
            session.closed_at = time.time()

    async def _workloads(self, request: web.Request) -> web.Response:
        """List what is there: the only way to find sessions that nobody remembers."""
        query, now, crn = request.query, time.time(), request[INSTANCE].crn
        found: list[dict[str, Any]] = []
        for session in self.sessions.values():
            mode = "batch" if session.mode == "batch" else "session"
            status = {"open": "pending", "active": "in_progress", "closed": "completed"}[session.state(now)]
            if session.crn == crn and query.get("mode", mode) == mode and status in query.getall("status", [status]):
                found.append({"id": session.session_id, "mode": mode, "status": status, "backend": session.backend})
        return web.json_response({"workloads": found, "total_count": len(found)})


def _moment(text: str | None, otherwise: float) -> float:
    if text is None:
        return otherwise
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
