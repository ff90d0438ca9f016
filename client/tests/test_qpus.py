"""QPUs as users see them, from Python and from the command line, against a gateway in this process."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from qonduit import cli
from qonduit.exceptions import ConflictError, NotFoundError, QpuJobOverError
from qonduit.qpus import Backend
from qonduit_api.v1 import qpu_pb2

if TYPE_CHECKING:
    from conftest import Run
    from fake_gateway import FakeGateway
    from qonduit import ServerlessClient

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def moment(at: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(at)
    return made


def job(number: int, state: str, *, job_id: str = "job-1", seconds: float | None = None) -> qpu_pb2.QpuJob:
    over = state in {"Completed", "Failed", "Cancelled"}
    return qpu_pb2.QpuJob(
        qpu_job_id=f"q{number}",
        job_id=job_id,
        backend="ibm_torino",
        state=state,
        program="sampler",
        create_time=moment(NOON),
        end_time=moment(NOON) if over else None,
        qpu_seconds=seconds or 0.0,
        qpu_seconds_final=seconds is not None,
        reason="it broke" if state == "Failed" else "",
    )


def session(number: int, *, unfinished: int = 0) -> qpu_pb2.QpuSession:
    return qpu_pb2.QpuSession(
        session_id=f"s{number}",
        job_id="job-1",
        backend="ibm_torino",
        mode="dedicated",
        state="active" if unfinished else "closed",
        create_time=moment(NOON),
        elapsed_seconds=12.5,
        unfinished_jobs=unfinished,
    )


@pytest.fixture(autouse=True)
def world(gateway: FakeGateway) -> None:
    qpu = gateway.state.qpu
    qpu.backends += [
        qpu_pb2.Backend(name="ibm_fez", qubits=156, status="online", simulated=True),
        qpu_pb2.Backend(name="ibm_torino", qubits=133, status="maintenance", queue_length=3),
    ]
    qpu.jobs += [
        job(5, "Running"),
        job(4, "Queued"),
        job(3, "Completed", job_id="job-2"),
        job(2, "Failed", seconds=0.25),
        job(1, "Completed", seconds=1.5),
    ]
    qpu.sessions += [session(2, unfinished=2), session(1)]


def test_devices_and_jobs_and_sessions_are_values(client: ServerlessClient) -> None:
    assert client.qpu.backends()[1] == Backend("ibm_torino", 133, "maintenance", 3, simulated=False)
    jobs = client.qpu.jobs()
    assert [each.qpu_job_id for each in jobs] == ["q5", "q4", "q3", "q2", "q1"]
    assert [each.qpu_seconds for each in jobs] == [None, None, None, 0.25, 1.5]
    assert (jobs[0].created, jobs[0].ended, jobs[-1].ended) == (NOON, None, NOON)
    assert len(client.qpu.jobs(limit=3)) == 3
    assert [each.qpu_job_id for each in client.qpu.jobs(pending=True)] == ["q5", "q4"]
    assert [each.qpu_job_id for each in client.qpu.jobs("job-1")] == ["q1", "q2", "q4", "q5"]
    assert [each.session_id for each in client.qpu.sessions()] == ["s2", "s1"]
    assert [each.unfinished_jobs for each in client.qpu.sessions(pending=True)] == [2]


def test_jobs_are_cancelled_once_and_refusals_have_types(client: ServerlessClient) -> None:
    assert client.qpu.cancel("q4").state == "Cancelled"
    with pytest.raises(QpuJobOverError, match="q4 is Cancelled") as over:
        client.qpu.cancel("q4")
    assert isinstance(over.value, ConflictError)
    for call in (client.qpu.cancel, client.qpu.close_session):
        with pytest.raises(NotFoundError, match="nothing"):
            call("nothing")


def test_sessions_are_closed_or_cancelled(client: ServerlessClient, gateway: FakeGateway) -> None:
    assert client.qpu.close_session("s2").unfinished_jobs == 2
    assert client.qpu.close_session("s2", cancel=True).state == "closed"
    assert [request.mode for request in gateway.state.qpu.closed] == [
        qpu_pb2.QPU_SESSION_END_CLOSE,
        qpu_pb2.QPU_SESSION_END_CANCEL,
    ]


def test_lists_as_tables_and_as_json(run: Run, gateway: FakeGateway) -> None:
    gateway.state.change("job-1", "RUNNING")
    code, out, _ = run("qpu", "backends")
    assert (code, out.splitlines()[2].split()) == (cli.OK, ["ibm_torino", "133", "maintenance", "3"])
    lines = run("qpu", "jobs")[1].splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["q5", "q4", "q3", "q2", "q1"]
    assert "it broke" in lines[4]
    assert "0.250" in lines[4]
    assert "pending" in lines[3], "what ended and has no price yet"
    assert "pending" not in lines[2]
    found = json.loads(run("qpu", "jobs", "--pending", "--json")[1])
    assert [(each["qpu_job_id"], each["qpu_seconds"]) for each in found] == [("q5", None), ("q4", None)]
    assert len(json.loads(run("qpu", "jobs", "--job", "job-1", "--json")[1])) == 4
    assert "12.500" in run("qpu", "sessions")[1]
    assert [each["session_id"] for each in json.loads(run("qpu", "sessions", "--json")[1])] == ["s2", "s1"]


def test_the_status_says_in_words_what_is_wrong_and_until_when(run: Run, gateway: FakeGateway) -> None:
    status = gateway.state.qpu.status
    status.instances.add(name="local", state="ok", text="Simulated here.")
    status.queues.add(backend="ibm_fez", status="online")
    out = run("qpu", "status")[1]
    assert "Simulated here.\n" in out
    assert "All 1 devices are online, and no job waits for one." in out
    assert "You were charged 0.000 QPU seconds in the last 28 days, and have no limit." in out

    soon = moment(datetime.now(UTC) + timedelta(minutes=10))
    status.instances.add(name="work", state="failing", text="It does not answer.", until=soon, in_flight=2)
    status.instances.add(name="late", state="limited", text="Five a minute.", until=moment(NOON))
    status.queues.add(backend="ibm_torino", status="online", queue_length=7)
    status.qpu_seconds_used, status.qpu_seconds_limit = 70.0, 60.0
    out = run("qpu", "status")[1]
    assert "It does not answer. It is tried again in 10 min, at 2" in out
    assert "Five a minute. It is tried again now." in out
    assert ["ibm_torino", "online", "7"] in [line.split() for line in out.splitlines()]
    assert "70.000 of 60 QPU seconds in the last 28 days; none is left" in out
    status.qpu_seconds_used = 20.0
    assert "; 40.000 are left." in run("qpu", "status")[1]
    told = json.loads(run("qpu", "status", "--json")[1])
    assert (told["instances"][1]["state"], told["qpu_seconds_limit"]) == ("failing", 60)


def test_cancelling_and_closing_say_what_came_of_it(run: Run) -> None:
    assert run("qpu", "cancel", "q4")[1] == "q4 is Cancelled; 0.000 QPU seconds were charged.\n"
    assert run("qpu", "cancel", "q5")[1] == "q5 is being cancelled; until its device lets go it is Running.\n"
    assert run("qpu", "close", "s2")[1] == "s2 takes no more jobs, and ends with the 2 that it has.\n"
    assert run("qpu", "close", "s2", "--cancel")[1] == "s2 is closed.\n"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["qpu", "cancel", "q1"], cli.FAILED, "q1 is Completed"),
        (["qpu", "cancel", "q9"], cli.FAILED, "'q9' of yours"),
        (["qpu", "close", "s9"], cli.FAILED, "'s9' of yours"),
        (["qpu", "jobs", "--job", "nothing"], cli.FAILED, "nothing"),
        (["qpu", "jobs", "--limit", "0"], cli.USAGE, "--limit"),
        (["qpu", "cancel"], cli.USAGE, "ID"),
    ],
)
def test_bad_input_is_told_in_a_line(run: Run, arguments: list[str], code: int, text: str) -> None:
    got, _, complaint = run(*arguments)
    assert (got, text in complaint) == (code, True), complaint
    assert "Traceback" not in complaint
