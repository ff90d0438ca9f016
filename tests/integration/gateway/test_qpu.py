"""Devices and QPU jobs, as the QPU broker words them and as users get them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from integration.gateway.rig import PATIENCE_S
from qonduit_api.v1 import jobs_pb2, qpu_pb2
from qonduit_service_kit.errors import from_rpc_error
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
