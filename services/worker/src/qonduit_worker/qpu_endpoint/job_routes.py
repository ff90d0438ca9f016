"""What the client of Qiskit Serverless asks from within a program: its own job, at the paths of that server."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import parse_qs

from aiohttp import web
from qonduit_service_kit.messages import Stage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qonduit_worker.qpu_endpoint.workloads import Workloads

PREFIX: Final = "/api/v1/"
MAX_RESULT_BYTES: Final = 8 * 1024**2
"""Of a result as a form: only clients before 0.23 send it so, newer ones write a file."""
_MOST_FIELDS: Final = 16
_STAGES: Final = {
    "MAPPING": Stage.MAPPING,
    "OPTIMIZING_HARDWARE": Stage.OPTIMIZING_FOR_HARDWARE,
    "WAITING_QPU": Stage.WAITING_FOR_QPU,
    "EXECUTING_QPU": Stage.EXECUTING_QPU,
    "POST_PROCESSING": Stage.POST_PROCESSING,
}
_SUB_STATUS: Final = {stage: word for word, stage in _STAGES.items()}
_IN_TASKS: Final = "A task can't say this of its job: say it in the program that starts the tasks."


class JobWords(Protocol):
    """What may be said of the job, and what is known of it."""

    @property
    def stage(self) -> Stage:
        """Its present stage."""

    @property
    def function(self) -> tuple[str, str]:
        """Provider, if it has one, and title of its function."""

    @property
    def submitted_at(self) -> float:
        """When it was accepted."""

    def set_stage(self, stage: Stage) -> None:
        """Take the program's own stage."""

    async def tell(self, code: str, message: str, exception: str, args: str = "") -> bool:
        """Tell the job's users an error; False once there were too many."""

    async def keep_result(self, data: bytes) -> None:
        """Make bytes the result."""


class JobRoutes:
    """Answers for one job; `words` are those of its driver, None where a task asks."""

    def __init__(self, job_id: str, words: JobWords | None, workloads: Workloads) -> None:
        self._job_id = job_id
        self._words = words
        self._workloads = workloads
        self._handlers: dict[tuple[str, str], Callable[[web.Request], Awaitable[web.Response]]] = {
            ("GET", ""): self._job,
            ("GET", "runtime_jobs"): self._runtime_jobs,
            ("POST", "runtime_jobs"): self._runtime_job,
            ("PATCH", "sub_status"): self._sub_status,
            ("POST", "event"): self._event,
            ("POST", "result"): self._result,
        }

    async def answer(self, request: web.Request) -> web.Response:
        """Answer a request below the prefix, with or without a slash at its end."""
        what, _, rest = request.path.removeprefix(PREFIX).strip("/").partition("/")
        job_id, _, name = rest.partition("/")
        handler = self._handlers.get((request.method, name))
        if what != "jobs" or handler is None:
            return refusal(404, "Programs can ask here for their own job, and nothing else.")
        if job_id != self._job_id:
            return refusal(404, f"Job [{job_id}] not found")
        return await handler(request)

    async def _job(self, _request: web.Request) -> web.Response:
        return web.json_response(self._document())

    def _document(self) -> dict[str, Any]:
        document: dict[str, Any] = {"id": self._job_id, "status": "RUNNING", "sub_status": None, "result": None}
        if (words := self._words) is not None:
            provider, title = words.function
            created = datetime.fromtimestamp(words.submitted_at, UTC)
            document["sub_status"] = _SUB_STATUS.get(words.stage)
            document["program"] = {"title": title, "provider": provider or None}
            document["created"] = created.isoformat().replace("+00:00", "Z")
        return document

    async def _runtime_jobs(self, request: web.Request) -> web.Response:
        """List the program's QPU jobs as the system knows them."""
        jobs = await self._workloads.jobs(request.headers.get("IBM-API-Version", ""))
        made = [{"runtime_job": job["id"], "runtime_session": job.get("session_id")} for job in jobs]
        return web.json_response({"runtime_jobs": made})

    async def _runtime_job(self, request: web.Request) -> web.Response:
        """Take a program's word that a QPU job is its own, which the system knows by itself."""
        runtime_job = str((await _fields(request)).get("runtime_job", ""))[:100]
        text = f"RuntimeJob object [{runtime_job}] created for serverless job id [{self._job_id}]."
        return web.json_response({"message": text})

    async def _sub_status(self, request: web.Request) -> web.Response:
        stage = _STAGES.get(str((await _fields(request)).get("sub_status", "")))
        if stage is None:
            return refusal(400, "'sub_status' not provided or is not valid")
        if self._words is None:
            return refusal(403, _IN_TASKS)
        self._words.set_stage(stage)
        return web.json_response({"job": self._document()})

    async def _event(self, request: web.Request) -> web.Response:
        fields = await _fields(request)
        if fields.get("type") != "ERROR":
            return refusal(400, "Type is not valid. Valid types: ['ERROR']")
        if self._words is None:
            return refusal(403, _IN_TASKS)
        more = fields.get("args")
        told = await self._words.tell(
            str(fields.get("code", "")),
            str(fields.get("message", "")),
            str(fields.get("exception", "")),
            json.dumps(more) if more else "",
        )
        return web.json_response({"message": "Event created."}) if told else refusal(429, "There were too many events.")

    async def _result(self, request: web.Request) -> web.Response:
        result = (await _fields(request)).get("result")
        if not isinstance(result, str):
            return refusal(400, "'result' not provided or is not valid")
        if self._words is None:
            return refusal(403, _IN_TASKS)
        await self._words.keep_result(result.encode(errors="replace"))
        return web.json_response(self._document() | {"result": result})


def refusal(status: int, text: str) -> web.Response:
    """Return a refusal as that client shows it: it joins the values of the object."""
    return web.json_response({"message": text}, status=status)


def unauthorized() -> web.Response:
    """Return the answer to a token that is not this program's."""
    document = {"detail": "Authorization token is not valid."}
    return web.json_response(document, status=401, headers={"WWW-Authenticate": "Bearer"})


async def _fields(request: web.Request) -> dict[str, Any]:
    """Return a body's fields, which clients send as a form or as JSON; of what is neither, none."""
    body = await request.read()
    if "json" not in request.content_type:
        return await asyncio.to_thread(_of_form, body)
    try:
        sent = await asyncio.to_thread(json.loads, body)
    except (ValueError, RecursionError):
        return {}
    return sent if isinstance(sent, dict) else {}


def _of_form(body: bytes) -> dict[str, Any]:
    try:
        form = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        return {}
    return {name: values[0] for name, values in form.items()}
