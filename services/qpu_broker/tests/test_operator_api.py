"""What the gateway is told about one user's jobs and sessions, and about instances."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from qonduit_qpu_broker.api.operator import OperatorApi
from qonduit_qpu_broker.ledger import jobs, programs, sessions
from qonduit_qpu_broker.ledger.thread import LedgerThread
from qonduit_qpu_broker.problems import BadRequest, NotFound
from qonduit_qpu_broker.queueing import Place
from qonduit_qpu_broker.upstream import Condition, Device
from qonduit_service_kit.messages import GATEWAY, QpuRequest, QpuState
from qpu_jobs import JOB

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator
    from pathlib import Path

    from qonduit_qpu_broker.api.answer import Answer
    from qonduit_qpu_broker.api.jobs import JobsApi
    from qonduit_qpu_broker.api.sessions import SessionsApi
    from qonduit_qpu_broker.upstream import Upstream

LIMITED = Condition("work", "crn:1", "limited", "Five jobs a minute were submitted.", 99.5, 3)


class Instances:
    """As much of an upstream as is asked about."""

    def devices(self) -> tuple[Device, ...]:
        return (
            Device("ibm_torino", 133, "Heron", "1", "1.0", ("cz",)),
            Device("ibm_fez", 156, "Heron", "2", "1.0", ("cz",), online=False),
        )

    def conditions(self) -> tuple[Condition, ...]:
        return (LIMITED,)


class Asked:
    """The operator's side of a broker whose ledger has jobs and sessions of two users."""

    def __init__(self, ledger: LedgerThread) -> None:
        self.ledger = ledger
        self.api = OperatorApi(
            ledger,
            cast("Upstream", Instances()),
            lambda name: 2 if name == "ibm_torino" else 0,
            lambda _name, _created_at: Place(3, 40.0),
            jobs=cast("JobsApi", None),
            sessions_api=cast("SessionsApi", None),
        )

    def request(self, path: str, user: str = "ada", job_id: str = "", **query: str) -> QpuRequest:
        return QpuRequest("r", GATEWAY, user, job_id, 0, "GET", path, query=tuple(query.items()))

    async def pages(self, answer: Any, name: str, **query: str) -> list[list[dict[str, Any]]]:
        """Return the pages of two of a list, from the first to the last."""
        pages, before = [], ""
        while True:
            request = self.request(f"/{name}", limit="2", qonduit_before=before, **query)
            page = _read(await answer(request))
            pages.append(page[name])
            if page["next"] is None:
                return pages
            before = str(page["next"])


def _read(answer: Answer) -> dict[str, Any]:
    assert answer.status == 200
    found: dict[str, Any] = json.loads(answer.body)
    return found


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Asked]:
    ledger = LedgerThread(tmp_path / "ledger.sqlite3")
    await ledger.start()

    def fill(connection: sqlite3.Connection) -> None:
        for job_id, user in (("job-1", "ada"), ("job-2", "grace"), ("job-3", "ada")):
            programs.note_program(connection, job_id, 1, user)
            for number in (1, 2):
                new = replace(JOB, job_id=job_id, user=user, call_number=number, digest=f"{job_id}-{number}")
                record, _ = jobs.submit(connection, new)
                if number == 1:
                    jobs.advance(connection, record.qpu_job_id, QpuState.COMPLETED, at=2.0, qpu_s=1.5)
            session = sessions.NewSession(job_id, user, 1, "driver", 1, "s", "batch", "ibm_torino", "", 600)
            opened = sessions.open_session(connection, session)
            if job_id == "job-1":
                sessions.close(connection, opened.session_id)

    await ledger.run(fill)
    yield Asked(ledger)
    await ledger.stop()


async def test_jobs_come_newest_first_in_pages_that_go_on_where_the_last_ended(asked: Asked) -> None:
    first, second, last = await asked.pages(asked.api.jobs, "jobs")
    assert [(job["qonduit_job_id"], job["state"]["status"]) for job in first + second] == [
        ("job-3", "Queued"),
        ("job-3", "Completed"),
        ("job-1", "Queued"),
        ("job-1", "Completed"),
    ]
    assert last == []
    assert (second[1]["qpu_seconds"], second[1]["usage"]["status"]) == (1.5, "complete")
    pending = await asked.pages(asked.api.jobs, "jobs", pending="true")
    assert [job["qonduit_job_id"] for page in pending for job in page] == ["job-3", "job-1"]


async def test_what_comes_or_ends_between_two_pages_moves_nothing(asked: Asked) -> None:
    request = asked.request("/jobs", limit="1", qonduit_before="", pending="true")
    first = _read(await asked.api.jobs(request))

    def change(connection: sqlite3.Connection) -> None:
        jobs.submit(connection, replace(JOB, digest="new"))
        jobs.advance(connection, first["jobs"][0]["id"], QpuState.COMPLETED, at=3.0, qpu_s=0.5)

    await asked.ledger.run(change)
    request = asked.request("/jobs", limit="1", qonduit_before=str(first["next"]), pending="true")
    assert [job["qonduit_job_id"] for job in _read(await asked.api.jobs(request))["jobs"]] == ["job-1"]


async def test_sessions_come_with_their_job_and_what_is_left_in_them(asked: Asked) -> None:
    ((newer, older), _) = await asked.pages(asked.api.sessions, "sessions")
    assert [(each["qonduit_job_id"], each["state"]) for each in (newer, older)] == [
        ("job-3", "open"),
        ("job-1", "closed"),
    ]
    assert newer["qonduit_unfinished"] == 0
    (open_ones,) = await asked.pages(asked.api.sessions, "sessions", pending="true")
    assert [each["id"] for each in open_ones] == [newer["id"]]
    one = _read(await asked.api.session(asked.request(f"/sessions/{newer['id']}"), newer["id"]))
    assert one["qonduit_job_id"] == "job-3"
    with pytest.raises(NotFound):
        await asked.api.session(asked.request("/sessions/x", user="eve"), newer["id"])


async def test_the_status_tells_of_instances_and_queues(asked: Asked) -> None:
    told = _read(await asked.api.status(asked.request("/status")))
    assert told["instances"] == [
        {
            "name": "work",
            "instance": "crn:1",
            "state": "limited",
            "text": "Five jobs a minute were submitted.",
            "until": 99.5,
            "in_flight": 3,
        }
    ]
    assert told["devices"] == [
        {"name": "ibm_torino", "queue_length": 2, "status": "online"},
        {"name": "ibm_fez", "queue_length": 0, "status": "offline"},
    ]


async def test_programs_are_not_served_and_a_damaged_place_is_refused(asked: Asked) -> None:
    for call in (asked.api.status, asked.api.sessions):
        with pytest.raises(NotFound):
            await call(asked.request("/x", job_id="job-1"))
    with pytest.raises(BadRequest):
        await asked.api.jobs(asked.request("/jobs", qonduit_before="here"))
