"""Devices and QPU jobs, as the QPU broker words them and as users get them."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from integration.gateway.rig import PATIENCE_S
from qonduit_api.v1 import cluster_pb2, jobs_pb2, qpu_pb2
from qonduit_service_kit.errors import ApiError, from_rpc_error
from qonduit_service_kit.messages import GATEWAY, EventKind, QpuCharged, QpuReply, QpuRequest, Stage, StageUsage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from integration.gateway.rig import Client, Cluster

DEVICES = {
    "devices": [
        {"name": name, "status": {"name": "online"}, "qubits": 133, "queue_length": 2, "qonduit_simulated": True}
        for name in ("ibm_torino", "ibm_fez")
    ]
}


def qpu_job(number: int) -> dict[str, Any]:
    created = f"2026-01-01T00:00:{number:02}.000Z"
    return {
        "id": f"q{number}",
        "backend": "ibm_torino",
        "state": {"status": "Completed"},
        "program": {"id": "sampler"},
        "session_id": "s1",
        "timestamps": {"created": created, "running": created, "finished": None},
        "qpu_seconds": 1.5,
        "usage": {"status": "complete" if number else "pending"},
        "qonduit_job_id": "job-1",
    }


def session(number: int) -> dict[str, Any]:
    return {
        "id": f"s{number}",
        "qonduit_job_id": "job-1",
        "backend_name": "ibm_torino",
        "mode": "dedicated",
        "state": "active",
        "accepting_jobs": True,
        "started_at": "2026-01-01T00:00:00.000Z",
        "activated_at": "2026-01-01T00:00:01.000Z",
        "closed_at": None,
        "elapsed_time": 12,
        "qonduit_unfinished": 2,
    }


def page_of(path: str, query: dict[str, str]) -> dict[str, Any]:
    """Three of a kind, newest first, with their numbers as places to go on from."""
    name, make = ("jobs", qpu_job) if path == "/jobs" else ("sessions", session)
    before = int(query["qonduit_before"] or 3)
    numbers = list(range(before))[::-1][: int(query["limit"])]
    return {name: [make(number) for number in numbers], "next": numbers[-1] if numbers and numbers[-1] else None}


def refusal_body(message: str) -> bytes:
    return json.dumps({"errors": [{"code": 1254, "message": message}], "trace": ""}).encode()


REFUSED = {
    "/jobs/done/cancel": (409, refusal_body("Job done is Completed and can't be cancelled.")),
    "/jobs/theirs/cancel": (404, refusal_body("There is no job theirs.")),
    "/sessions/theirs": (404, refusal_body("There is no session theirs.")),
    "/jobs/..%2Fx/cancel": (404, b"no JSON"),
}
STATUS = {
    "instances": [
        {
            "name": "work",
            "instance": "crn:v1:1",
            "state": "limited",
            "text": "Five jobs a minute were submitted.",
            "until": 4_000_000_000,
            "in_flight": 3,
        },
        {"name": "spare", "instance": "", "state": "ok", "text": "", "until": None, "in_flight": 0},
    ],
    "devices": [{"name": name, "queue_length": 1, "status": "online"} for name in ("ibm_torino", "ibm_fez")],
}


@pytest.fixture
async def broker_side(cluster: Cluster) -> AsyncIterator[list[QpuRequest]]:
    """A scripted QPU broker; what it was asked."""
    asked: list[QpuRequest] = []

    def answer(request: QpuRequest) -> tuple[int, bytes]:
        query = dict(request.query)
        jobs = [qpu_job(number) for number in (2, 0, 1)]
        offset = int(query.get("offset", 0))
        answers: dict[str, Any] = {
            "/backends": DEVICES,
            "/backends/ibm_torino/configuration": {"n_qubits": 133},
            "/jobs": {"jobs": jobs[offset : offset + 2], "count": len(jobs)},
        }
        if request.path in REFUSED:
            return REFUSED[request.path]
        if "qonduit_before" in query:
            return 200, json.dumps(page_of(request.path, query)).encode()
        if request.method in {"PATCH", "DELETE"} or request.path.endswith("/cancel"):
            return 204, b""
        answers |= {"/status": STATUS, "/sessions/s1": session(1), "/jobs/q1": qpu_job(1)}
        known = request.path in answers
        return (200, json.dumps(answers[request.path]).encode()) if known else (404, b"{}")

    async def serve() -> None:
        while True:
            request = await cluster.qpu.get()
            asked.append(request)
            assert request.reply_to == GATEWAY
            status, body = answer(request)
            await cluster.say(QpuReply(request.request_id, status, body=body))

    serving = asyncio.create_task(serve())
    yield asked
    serving.cancel()


async def test_devices_are_listed_by_name(client: Client, broker_side: list[QpuRequest]) -> None:
    answer = await client.qpu.ListBackends(qpu_pb2.ListBackendsRequest())

    assert [backend.name for backend in answer.backends] == ["ibm_fez", "ibm_torino"]
    first = answer.backends[0]
    assert (first.qubits, first.status, first.queue_length, first.simulated) == (133, "online", 2, True)
    assert (broker_side[0].user, broker_side[0].job_id) == (client.name, "")


async def test_a_device_comes_with_its_configuration(client: Client, broker_side: list[QpuRequest]) -> None:
    del broker_side
    request = qpu_pb2.GetBackendRequest(name="ibm_torino")
    parts = [part async for part in client.qpu.GetBackend(request)]
    assert parts[0].backend.qubits == 133
    assert json.loads(b"".join(part.configuration for part in parts[1:])) == {"n_qubits": 133}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [part async for part in client.qpu.GetBackend(qpu_pb2.GetBackendRequest(name="ibm_tokyo"))]
    refusal = from_rpc_error(caught.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "BACKEND_NOT_FOUND")
    assert "ibm_fez, ibm_torino" in refusal.text


async def test_qpu_jobs_of_a_job_are_listed_in_the_order_of_their_submission(
    client: Client, broker_side: list[QpuRequest]
) -> None:
    await client.upload()
    job = await client.run()

    answer = await client.qpu.ListQpuJobs(qpu_pb2.ListQpuJobsRequest(job_id=job.job_id))

    assert [each.qpu_job_id for each in answer.qpu_jobs] == ["q0", "q1", "q2"]
    first = answer.qpu_jobs[0]
    assert (first.state, first.program, first.session_id, first.qpu_seconds) == ("Completed", "sampler", "s1", 1.5)
    assert first.HasField("start_time")
    assert not first.HasField("end_time")
    assert {("qonduit_job_id", job.job_id)} <= set(broker_side[0].query)


async def test_all_qpu_jobs_and_sessions_come_in_pages(client: Client, broker_side: list[QpuRequest]) -> None:
    first = await client.qpu.ListQpuJobs(qpu_pb2.ListQpuJobsRequest(page_size=2, pending=True))
    assert [(job.qpu_job_id, job.job_id, job.qpu_seconds_final) for job in first.qpu_jobs] == [
        ("q2", "job-1", True),
        ("q1", "job-1", True),
    ]
    second = await client.qpu.ListQpuJobs(qpu_pb2.ListQpuJobsRequest(page_size=2, page_token=first.next_page_token))
    assert [(job.qpu_job_id, job.qpu_seconds_final) for job in second.qpu_jobs] == [("q0", False)]
    assert not second.next_page_token
    assert [(request.user, request.job_id) for request in broker_side] == [(client.name, "")] * 2
    assert ("pending", "true") in broker_side[0].query
    assert ("pending", "true") not in broker_side[1].query

    sessions = await client.qpu.ListQpuSessions(qpu_pb2.ListQpuSessionsRequest(page_size=1000))
    assert broker_side[-1].query == (("limit", "200"), ("qonduit_before", ""))
    newest = sessions.sessions[0]
    assert (newest.session_id, newest.job_id, newest.mode, newest.state) == ("s2", "job-1", "dedicated", "active")
    assert (newest.elapsed_seconds, newest.unfinished_jobs, newest.accepting_jobs) == (12, 2, True)
    assert newest.HasField("activate_time")
    assert not newest.HasField("close_time")
    assert (await refusal(client.qpu.ListQpuJobs(qpu_pb2.ListQpuJobsRequest(page_token="x")))).reason == (
        "INVALID_PAGE_TOKEN"
    )


async def test_the_status_says_how_instances_are_and_whose_they_are_to_administrators(
    client: Client, admin: Client, cluster: Cluster, broker_side: list[QpuRequest]
) -> None:
    del broker_side
    await client.upload()
    job = await client.run()
    for charge_id, at in (("old", time.time() - 29 * 24 * 3600), ("new", time.time() - 27 * 24 * 3600)):
        charge = QpuCharged(f"{job.job_id}-{charge_id}", job.job_id, client.name, "ibm_torino", "job", 2.5, at)
        await cluster.say(charge)
    await _charged(client, job.job_id, 5.0)
    await admin.cluster.SetUserLimit(cluster_pb2.SetUserLimitRequest(name=client.name, qpu_seconds=60))

    told = await client.qpu.GetQpuStatus(qpu_pb2.GetQpuStatusRequest())
    limited, fine = told.instances
    assert (limited.name, limited.state, limited.in_flight, limited.instance) == ("work", "limited", 3, "")
    assert limited.until.ToNanoseconds() == 4_000_000_000_000_000_000
    assert not fine.HasField("until")
    assert [queue.backend for queue in told.queues] == ["ibm_fez", "ibm_torino"]
    assert (told.qpu_seconds_used, told.qpu_seconds_limit) == (2.5, 60)
    told = await admin.qpu.GetQpuStatus(qpu_pb2.GetQpuStatusRequest())
    assert (told.instances[0].instance, told.qpu_seconds_limit) == ("crn:v1:1", 0)


async def test_qpu_jobs_are_cancelled_and_sessions_closed(client: Client, broker_side: list[QpuRequest]) -> None:
    after = await client.qpu.CancelQpuJob(qpu_pb2.CancelQpuJobRequest(qpu_job_id="q1"))
    assert after.qpu_job.qpu_job_id == "q1"
    closed = await client.qpu.CloseQpuSession(qpu_pb2.CloseQpuSessionRequest(session_id="s1"))
    assert closed.session.unfinished_jobs == 2
    cancel = qpu_pb2.CloseQpuSessionRequest(session_id="s1", mode=qpu_pb2.QPU_SESSION_END_CANCEL)
    await client.qpu.CloseQpuSession(cancel)
    changes = [(request.method, request.path, request.body) for request in broker_side if request.method != "GET"]
    assert changes == [
        ("POST", "/jobs/q1/cancel", None),
        ("PATCH", "/sessions/s1", b'{"accepting_jobs": false}'),
        ("DELETE", "/sessions/s1/close", None),
    ]


async def test_what_is_over_and_what_is_somebody_elses_is_refused_in_words(
    client: Client, broker_side: list[QpuRequest]
) -> None:
    over = await refusal(client.qpu.CancelQpuJob(qpu_pb2.CancelQpuJobRequest(qpu_job_id="done")))
    assert (over.code, over.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "QPU_JOB_OVER")
    assert over.text.startswith("Job done is Completed and can't be cancelled. Nothing was changed")
    for qpu_job_id in ("theirs", "../x"):
        gone = await refusal(client.qpu.CancelQpuJob(qpu_pb2.CancelQpuJobRequest(qpu_job_id=qpu_job_id)))
        assert (gone.code, gone.reason) == (grpc.StatusCode.NOT_FOUND, "QPU_JOB_NOT_FOUND")
        assert "List your QPU jobs" in gone.text
    gone = await refusal(client.qpu.CloseQpuSession(qpu_pb2.CloseQpuSessionRequest(session_id="theirs")))
    assert (gone.code, gone.reason) == (grpc.StatusCode.NOT_FOUND, "QPU_SESSION_NOT_FOUND")
    assert {request.path.count("/") for request in broker_side} <= {2, 3}, "an id is one step of a path"


async def refusal(call: Any) -> ApiError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_qpu_seconds_come_from_the_brokers_charges_alone_also_after_the_jobs_end(
    client: Client, cluster: Cluster
) -> None:
    await client.upload()
    job = await client.run()
    spec = await cluster.submitted(job.job_id)
    await cluster.begin(spec)
    await cluster.say(QpuCharged("q-early", job.job_id, client.name, "ibm_torino", "job", 0.5, 1.0))
    await _charged(client, job.job_id, 0.5)
    usage = (StageUsage(Stage.EXECUTING_QPU, 2.0, 0.0, 9.0),)
    await cluster.tell(spec, EventKind.FINISHED, usage=usage)
    await client.until(job.job_id, "DONE")
    late = QpuCharged("session-1", job.job_id, client.name, "ibm_torino", "dedicated", 1.25, 2.0)
    for message in (late, late, QpuCharged("q-other", "no-such-job", client.name, "ibm_torino", "job", 7.0, 2.0)):
        await cluster.say(message)
    stages = await _charged(client, job.job_id, 1.75)
    assert stages["RUNNING: EXECUTING_QPU"] == 1.75


async def _charged(client: Client, job_id: str, wanted: float) -> dict[str, float]:
    """Wait until a job's bill has these QPU seconds; return them by stage."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            usage = await client.jobs.GetUsage(jobs_pb2.GetUsageRequest(job_id=job_id))
            if usage.total.qpu_seconds == wanted:
                return {stage.status: stage.qpu_seconds for stage in usage.stages}
