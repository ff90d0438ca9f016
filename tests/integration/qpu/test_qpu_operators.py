"""What the gateway may ask of the broker for a user, over a real bus, while jobs wait."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from qonduit_service_kit.bus import GATEWAY_INBOX
from qonduit_service_kit.messages import GATEWAY, QPU_BROKER, QpuReply, QpuRequest
from qpu_world import Services, Worker, start_services

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from qonduit_service_kit.bus import Delivery
    from qonduit_service_kit.testing import PrivateBroker

SUBMIT = """
import json
from qiskit import QuantumCircuit, transpile
from qiskit_ibm_runtime import QiskitRuntimeService, SamplerV2, Session

backend = QiskitRuntimeService().backend("ibm_torino")
circuit = QuantumCircuit(1)
circuit.measure_all()
session = Session(backend=backend)
jobs = [SamplerV2(mode=mode).run([transpile(circuit, backend)], shots=shots)
        for mode, shots in ((backend, 10), (session, 20), (session, 30))]
print(json.dumps({"session": session.session_id, "jobs": [job.job_id() for job in jobs]}))
"""


class Operator:
    """The gateway's side of the bus."""

    def __init__(self, worker: Worker) -> None:
        self._bus = worker.bus
        self._replies: dict[str, asyncio.Future[QpuReply]] = {}

    async def take(self, delivery: Delivery) -> None:
        if isinstance(delivery.message, QpuReply):
            self._replies[delivery.message.request_id].set_result(delivery.message)

    async def ask(
        self, method: str, path: str, *, user: str = "ada", body: bytes | None = None, **query: str
    ) -> tuple[int, Any]:
        request = QpuRequest(
            uuid.uuid4().hex, GATEWAY, user, "", 0, method, path, query=tuple(query.items()), body=body
        )
        self._replies[request.request_id] = asyncio.get_running_loop().create_future()
        await self._bus.publish(QPU_BROKER, request)
        reply = await asyncio.wait_for(self._replies[request.request_id], 120)
        return reply.status, json.loads(reply.body) if reply.body else None


@pytest.fixture(scope="module")
def services(broker: PrivateBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """A broker whose jobs wait for longer than any test."""
    started = start_services(broker, tmp_path_factory.mktemp("operators"), queue_delay_s="3600")
    yield started
    started.stop()


@pytest.fixture
async def operator(worker: Worker) -> AsyncIterator[Operator]:
    made = Operator(worker)
    subscription = await worker.bus.consume(GATEWAY_INBOX, made.take)
    yield made
    await subscription.cancel()


async def test_an_operator_lists_cancels_and_closes_for_one_user_alone(worker: Worker, operator: Operator) -> None:
    sandbox = await worker.sandbox()
    made = (await sandbox.run(SUBMIT)).told
    alone, first, second = made["jobs"]
    _, page = await operator.ask("GET", "/jobs", qonduit_before="", limit="2", pending="true")
    assert [(job["id"], job["qonduit_job_id"]) for job in page["jobs"]] == [
        (second, sandbox.context.job_id),
        (first, sandbox.context.job_id),
    ]
    _, rest = await operator.ask("GET", "/jobs", qonduit_before=str(page["next"]), limit="2", pending="true")
    assert [job["id"] for job in rest["jobs"]] == [alone]
    _, page = await operator.ask("GET", "/sessions")
    assert [(each["id"], each["qonduit_unfinished"]) for each in page["sessions"]] == [(made["session"], 2)]
    _, told = await operator.ask("GET", "/status")
    assert [(each["name"], each["state"]) for each in told["instances"]] == [("local", "ok")]
    assert {each["queue_length"] for each in told["devices"] if each["name"] == "ibm_torino"} == {3}

    assert (await operator.ask("POST", f"/jobs/{alone}/cancel", user="eve"))[0] == 404
    assert (await operator.ask("DELETE", f"/sessions/{made['session']}/close", user="eve"))[0] == 404
    assert (await operator.ask("POST", f"/jobs/{alone}/cancel"))[0] == 204
    assert (await operator.ask("POST", f"/jobs/{alone}/cancel"))[0] == 409
    assert (await sandbox.until("Cancelled")).qpu_job_id == alone

    path = f"/sessions/{made['session']}"
    assert (await operator.ask("PATCH", path, body=b'{"accepting_jobs": false}'))[0] == 204
    _, closing = await operator.ask("GET", path)
    assert (closing["accepting_jobs"], closing["qonduit_unfinished"]) == (False, 2)
    assert (await operator.ask("DELETE", f"{path}/close"))[0] == 204
    _, closed = await operator.ask("GET", path)
    assert (closed["state"], closed["qonduit_unfinished"]) == ("closed", 0)
    assert (await operator.ask("GET", "/jobs", qonduit_before="", pending="true"))[1]["jobs"] == []
