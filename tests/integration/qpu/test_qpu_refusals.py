"""What goes wrong, and what a program's author is told."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import aiohttp
from qonduit_service_kit.bus import GATEWAY_INBOX
from qonduit_service_kit.messages import GATEWAY, QPU_BROKER, QpuCharged, QpuReply, QpuRequest

if TYPE_CHECKING:
    from qonduit_service_kit.bus import Delivery
    from qpu_world import Sandbox, Services, Worker

PROGRAM = """
import json
from qiskit import QuantumCircuit, transpile
from qiskit_ibm_runtime import QiskitRuntimeService, SamplerV2, Session
service = QiskitRuntimeService()
backend = service.backend("ibm_torino")
circuit = QuantumCircuit(2)
circuit.h(0)
circuit.cx(0, 1)
circuit.measure_all()
isa = transpile(circuit, backend, optimization_level=1)
wide = QuantumCircuit(40)
wide.ry(0.1, range(40))
wide.measure_all()
wide = transpile(wide, backend, optimization_level=0)

def told(call):
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""
ONE_JOB = PROGRAM + "SamplerV2(mode=backend).run([(isa,)], shots=10).result()\n"


async def test_a_circuit_too_wide_says_so_with_the_numbers(worker: Worker) -> None:
    sandbox = await worker.sandbox()
    done = await sandbox.run(
        PROGRAM
        + """
job = SamplerV2(mode=backend).run([(wide,)], shots=10)
print(json.dumps({"result": told(job.result), "status": job.status(), "message": job.error_message(),
                  "usage": job.usage()}))
"""
    )
    said = done.told
    assert "uses 40 qubits; this simulator does at most 24" in said["result"]
    assert "RuntimeJobFailureError" in said["result"]
    assert said["status"] == "ERROR"
    assert "40 qubits" in said["message"]
    assert said["usage"] == 0
    await sandbox.over()
    assert [state for _, state in next(iter(sandbox.steps().values()))] == ["Queued", "Running", "Failed"]
    assert "40 qubits" in sandbox.transitions[-1].text


async def test_an_unknown_backend_and_a_closed_session_are_refused_at_once(worker: Worker) -> None:
    done = await (await worker.sandbox()).run(
        PROGRAM
        + """
session = Session(backend=backend)
session.close()
session._active = True
print(json.dumps({"backend": told(lambda: service.backend("ibm_nowhere")),
                  "closed": told(lambda: SamplerV2(mode=session).run([(isa,)])),
                  "job": told(lambda: service.job("q123")),
                  "tags": told(lambda: SamplerV2(mode=backend, options={"environment": {"job_tags": ["x" * 90]}})
                               .run([(isa,)]))}))
"""
    )
    said = done.told
    assert "QiskitBackendNotFoundError" in said["backend"]
    assert "has been closed" in said["closed"]
    assert said["job"].startswith("RuntimeJobNotFound")
    assert "at most 86 characters" in said["tags"]


async def test_cancel_of_a_waiting_a_running_and_an_ended_job(services: Services, worker: Worker) -> None:
    await (await worker.sandbox()).run(ONE_JOB)
    sandbox = await worker.sandbox()
    with services.held_simulator():  # It ends with the job that runs; the one after that has another.
        done = await sandbox.run(
            PROGRAM
            + """
import time
sampler = SamplerV2(mode=backend)
running, waiting = (sampler.run([(isa,)]) for _ in range(2))
waiting.cancel()
while running.status() != "RUNNING":
    time.sleep(0.01)
running.cancel()
ended = sampler.run([(isa,)], shots=10)
ended.result()
print(json.dumps({"waiting": [waiting.status(), waiting.usage()], "running": service.job(running.job_id()).status(),
                  "charged": running.usage() > 0, "result": told(waiting.result), "ended": told(ended.cancel)}))
"""
        )
    said = done.told
    assert said["waiting"] == ["CANCELLED", 0]
    assert said["running"] == "CANCELLED"
    assert said["charged"]
    assert "Job was cancelled" in said["result"]
    assert said["ended"].startswith("RuntimeInvalidStateError")
    await sandbox.over(3)
    paths = sorted([state for _, state in steps] for steps in sandbox.steps().values())
    assert paths == [["Queued", "Cancelled"], ["Queued", "Running", "Cancelled"], ["Queued", "Running", "Completed"]]


async def test_another_programs_job_and_session_are_not_there(worker: Worker) -> None:
    first, second = await worker.sandbox(), await worker.sandbox()
    made = await first.run(
        PROGRAM
        + """
job = SamplerV2(mode=backend).run([(isa,)], shots=10)
job.result()
print(json.dumps([job.job_id(), Session(backend=backend).session_id]))
"""
    )
    job_id, session_id = made.told
    stolen = await second.run(
        PROGRAM
        + f"""
print(json.dumps([told(lambda: service.job({job_id!r})), len(service.jobs()),
                  told(lambda: Session.from_id({session_id!r}, service))]))
"""
    )
    job, count, session = stolen.told
    assert job.startswith("RuntimeJobNotFound")
    assert count == 0
    assert session.startswith("IBMInputValueError")


async def _get(sandbox: Sandbox, path: str, authorization: str) -> tuple[int, dict[str, object]]:
    url = sandbox.endpoint.environment()["QISKIT_IBM_URL"] + path
    async with aiohttp.ClientSession() as session, session.get(url, headers={"Authorization": authorization}) as answer:
        return answer.status, await answer.json()


async def test_a_wrong_token_is_refused(worker: Worker) -> None:
    first, second = await worker.sandbox(), await worker.sandbox()
    root = first.endpoint.environment()["IAM_URL"]
    async with aiohttp.ClientSession() as session:
        form = {"apikey": first.endpoint.environment()["QISKIT_IBM_TOKEN"]}
        async with session.post(root + "/identity/token", data=form) as answer:
            token = (await answer.json())["access_token"]
        async with session.post(root + "/identity/token", data={"apikey": "some-other-key"}) as answer:
            assert answer.status == 400
        async with session.post(root + "/v3/resources/search", json={}) as answer:
            assert answer.status == 401
    assert (await _get(first, "/backends", f"Bearer {token}"))[0] == 200
    for authorization in ("", "Bearer x.y.z", "apikey nothing", f"Bearer {token[:-2]}"):
        status, body = await _get(first, "/backends", authorization)
        assert status == 401
        assert body["errors"]
    assert (await _get(second, "/backends", f"Bearer {token}"))[0] == 401, "a token is good for one program"


async def test_nonsense_is_answered_in_the_apis_own_shape(worker: Worker) -> None:
    sandbox = await worker.sandbox()
    variables = sandbox.endpoint.environment()
    headers = {"Authorization": f"apikey {variables['QISKIT_IBM_TOKEN']}"}
    bodies = [b"", b"not json", b"[]", b"[" * 100_000, b'{"params": {}}', b'{"params": [], "program_id": "sampler"}']
    odd = {"params": {"pubs": []}, "program_id": "sampler", "backend": "ibm_torino"}
    more = [odd | {"tags": "x"}, odd | {"cost": -1}, odd | {"session_id": "no"}, odd | {"program_id": "calibrate"},
            odd | {"backend": "ibm_nowhere"}]  # fmt: skip
    async with aiohttp.ClientSession(headers=headers) as session:
        for body in [*bodies, *(json.dumps(document).encode() for document in more)]:
            async with session.post(variables["QISKIT_IBM_URL"] + "/jobs", data=body) as answer:
                assert answer.status == 400, body
                assert (await answer.json())["errors"][0]["message"]
        for path in ("/jobs/..%2f..%2fetc", "/nowhere", "/backends/ibm_torino/other", "/jobs/a/b/c", "/backends/.."):
            async with session.get(variables["QISKIT_IBM_URL"] + path) as answer:
                assert answer.status in {401, 404}
        async with session.get(variables["QISKIT_IBM_URL"] + "/jobs?limit=abc") as answer:
            assert answer.status == 400


async def test_an_ended_program_leaves_nothing_queued_or_open(services: Services, worker: Worker) -> None:
    sandbox = await worker.sandbox()
    await sandbox.run(ONE_JOB)
    with services.held_simulator():
        done = await sandbox.run(
            PROGRAM
            + """
session = Session(backend=backend)
jobs = [SamplerV2(mode=session).run([(isa,)]) for _ in range(2)]
print(json.dumps([job.job_id() for job in jobs]))
"""
        )
        running, queued = done.told
        await sandbox.until("Running", running)
        await worker.end(sandbox)
        await worker.end(sandbox)
        cancelled = await sandbox.until("Cancelled")
        assert cancelled.qpu_job_id == queued
        assert cancelled.text == "Its program ended."
        assert cancelled.qpu_seconds == 0
    await sandbox.until("Completed", running)


async def test_the_gateway_lists_the_qpu_jobs_of_a_users_job(worker: Worker) -> None:
    sandbox = await worker.sandbox(user="grace")
    await sandbox.run(ONE_JOB)
    replies: asyncio.Queue[QpuReply] = asyncio.Queue()
    charges: asyncio.Queue[QpuCharged] = asyncio.Queue()

    async def take(delivery: Delivery) -> None:
        if isinstance(delivery.message, QpuReply):
            replies.put_nowait(delivery.message)
        elif isinstance(delivery.message, QpuCharged) and delivery.message.job_id == sandbox.context.job_id:
            charges.put_nowait(delivery.message)

    subscription = await worker.bus.consume(GATEWAY_INBOX, take)
    for user, expected in (("grace", 1), ("eve", 0)):
        await worker.bus.publish(
            QPU_BROKER,
            QpuRequest(
                request_id=user,
                reply_to=GATEWAY,
                user=user,
                job_id="",
                attempt=0,
                method="GET",
                path="/jobs",
                query=(("qonduit_job_id", sandbox.context.job_id),),
            ),
        )
        reply = await asyncio.wait_for(replies.get(), 120)
        listed = json.loads(reply.body or b"")
        assert listed["count"] == expected
        if expected:
            assert listed["jobs"][0]["qonduit_job_id"] == sandbox.context.job_id
            charge = await asyncio.wait_for(charges.get(), 120)
            assert (charge.user, charge.mode) == ("grace", "job")
            assert listed["jobs"][0]["qpu_seconds"] == charge.qpu_seconds > 0
            assert listed["jobs"][0]["timestamps"]["finished"]
    await subscription.cancel()
