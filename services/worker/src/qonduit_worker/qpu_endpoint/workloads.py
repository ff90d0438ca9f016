"""GET /workloads: a program's QPU jobs, sessions and batches as one list, put together from what the broker tells."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from qonduit_worker.qpu_endpoint.broker_calls import Call

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from multidict import MultiMapping

    from qonduit_worker.qpu_endpoint.broker_calls import BrokerCalls

_PAGE: Final = 200
_DEFAULT_LIMIT: Final = 10
_MOST: Final = 50
_OK: Final = 200
_JOB_STATUS: Final = {
    "Queued": "pending",
    "Running": "in_progress",
    "Completed": "completed",
    "Failed": "failed",
    "Cancelled": "canceled",
}
_SESSION_STATUS: Final = {"open": "pending", "active": "in_progress", "closed": "completed"}


class Workloads:
    """Lists a program's workloads. A session without a job is known to the endpoint that opened it."""

    def __init__(self, calls: BrokerCalls, user: str) -> None:
        self._calls = calls
        self._user = user
        self._opened: dict[str, None] = {}

    def note_opened(self, session_id: str) -> None:
        """Remember a session that was opened here."""
        self._opened[session_id] = None

    async def answer(self, query: MultiMapping[str], api_version: str) -> dict[str, Any]:
        """Return a page of workloads; ValueError for a filter that can't be read."""
        limit = min(_MOST, max(1, int(query.get("limit", _DEFAULT_LIMIT))))
        offset = max(0, int(query.get("next") or query.get("previous") or 0))
        wanted = _Filter(query)
        jobs = await self.jobs(api_version)
        sessions = await self._sessions(jobs, api_version)
        found = [*map(self._of_job, jobs), *map(self._of_session, sessions)]
        found = [workload for workload in found if wanted.takes(workload)]
        found.sort(key=lambda workload: str(workload["created"]), reverse=query.get("sort", "createdAt")[:1] == "-")
        page: dict[str, Any] = {
            "workloads": found[offset : offset + limit],
            "total_count": len(found),
            "limit": limit,
        }
        if offset + limit < len(found):
            page["next"] = {"href": f"?next={offset + limit}"}
        if offset:
            page["previous"] = {"href": f"?previous={max(0, offset - limit)}"}
        return page

    async def jobs(self, api_version: str) -> list[dict[str, Any]]:
        """Return all of the program's QPU jobs as the broker tells them."""
        jobs: list[dict[str, Any]] = []
        while True:
            query = (("limit", str(_PAGE)), ("offset", str(len(jobs))), ("exclude_params", "true"), ("sort", "ASC"))
            page = await self._get("/jobs", api_version, query) or {"jobs": []}
            jobs += page["jobs"]
            if len(page["jobs"]) < _PAGE:
                return jobs

    async def _sessions(self, jobs: list[dict[str, Any]], api_version: str) -> list[dict[str, Any]]:
        ids = dict.fromkeys([*self._opened, *(job["session_id"] for job in jobs if job.get("session_id"))])
        found = [await self._get(f"/sessions/{session_id}", api_version) for session_id in ids]
        return [session for session in found if session is not None]

    async def _get(self, path: str, api_version: str, query: tuple[tuple[str, str], ...] = ()) -> dict[str, Any] | None:
        received = await self._calls.whole(Call("GET", path, query, api_version))
        document: dict[str, Any] | None = json.loads(received.body) if received.status == _OK else None
        return document

    def _of_job(self, job: dict[str, Any]) -> dict[str, Any]:
        state = job["state"]
        return {
            "id": job["id"],
            "mode": "job",
            "status": _JOB_STATUS[state["status"]],
            "status_reason": state.get("reason", ""),
            "accepting_jobs": None,
            "created": job["created"],
            "ended": job["ended"],
            "backend": job["backend"],
            "instance": "",
            "user_id": self._user,
            "tags": job["tags"],
            "usage": job["usage"],
        }

    def _of_session(self, session: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": session["id"],
            "mode": "batch" if session["mode"] == "batch" else "session",
            "status": _SESSION_STATUS[session["state"]],
            "accepting_jobs": session["accepting_jobs"],
            "created": session["started_at"],
            "ended": session["closed_at"],
            "backend": session["backend_name"],
            "instance": session["instance"],
            "user_id": self._user,
            "tags": [],
            "usage": {"qpu_charge_time_seconds": session["elapsed_time"]},
        }


class _Filter:
    """What a query asks for."""

    def __init__(self, query: MultiMapping[str]) -> None:
        self._exact = {name: query[name] for name in ("mode", "backend") if query.get(name)}
        self._statuses = _all(query, "status")
        self._tags = _all(query, "tags")
        self._search = query.get("search", "")
        self._after = _moment(query.get("created_after"))
        self._before = _moment(query.get("created_before"))

    def takes(self, workload: dict[str, Any]) -> bool:
        """Whether a workload is asked for."""
        created = _moment(workload["created"])
        return (
            all(workload[name] == value for name, value in self._exact.items())
            and (not self._statuses or workload["status"] in self._statuses)
            and set(self._tags) <= set(workload["tags"])
            and any(self._search in text for text in (workload["id"], *workload["tags"]))
            and (self._after is None or created is None or created >= self._after)
            and (self._before is None or created is None or created <= self._before)
        )


def _all(query: MultiMapping[str], name: str) -> Sequence[str]:
    values: Iterable[str] = query.getall(name) if name in query else ()
    return [value for value in values if value]


def _moment(text: str | None) -> datetime | None:
    if not text:
        return None
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
