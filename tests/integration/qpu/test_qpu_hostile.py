"""Programs that mean harm: to the worker's memory, to other programs, to the broker."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import struct
import sys
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from qonduit_worker.qpu_endpoint.connections import MAX_CONNECTIONS
from qonduit_worker.qpu_endpoint.identity import Identity
from qpu_world import Worker, start_services

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from qonduit_service_kit.testing import PrivateBroker
    from qpu_world import Sandbox, Services

MIB = 1024**2

RUN = """
import json
from qiskit import QuantumCircuit, transpile
from qiskit_ibm_runtime import Batch, QiskitRuntimeService, SamplerV2, Session
service = QiskitRuntimeService()
backend = service.backend("ibm_torino")
circuit = QuantumCircuit(1)
circuit.measure_all()
isa = transpile(circuit, backend, optimization_level=0)
"""
RUN_ONE = RUN + "print(json.dumps(SamplerV2(mode=backend).run([(isa,)], shots=10).result()[0].data.meas.num_shots))\n"

JOB = {"program_id": "sampler", "backend": "ibm_torino", "params": {"pubs": [], "version": 2}}

POST_BIG = """
import http.client, json, sys
from urllib.parse import urlsplit
url, token, chunked, size_mib = sys.argv[1], sys.argv[2], sys.argv[3] == "chunked", int(sys.argv[4])
connection = http.client.HTTPConnection(urlsplit(url).netloc)
def pieces():
    yield b'{"params": "'
    for _ in range(size_mib):
        yield b"x" * 1024**2
headers = {"Authorization": "apikey " + token, "Content-Type": "application/json"}
if not chunked:
    headers["Content-Length"] = str(size_mib * 1024**2 + 12)
connection.request("POST", urlsplit(url).path + "/jobs", pieces(), headers, encode_chunked=chunked)
answer = connection.getresponse()
print(json.dumps([answer.status, json.load(answer)["errors"][0]]))
"""


def _key(sandbox: Sandbox) -> str:
    return sandbox.endpoint.environment()["QISKIT_IBM_TOKEN"]


def _url(sandbox: Sandbox) -> str:
    return sandbox.endpoint.environment()["QISKIT_IBM_URL"]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def _ask(
    http: aiohttp.ClientSession, sandbox: Sandbox, method: str, path: str, **more: Any
) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"apikey {_key(sandbox)}"} | more.pop("headers", {})
    async with http.request(method, _url(sandbox) + path, headers=headers, **more) as answer:
        text = await answer.text()
        return answer.status, json.loads(text) if text.startswith("{") else {}


async def _raw(sandbox: Sandbox, head: bytes, body: bytes = b"") -> int:
    """Send these very bytes and return the answer's status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", _port(sandbox))
    authorization = f"\r\nAuthorization: apikey {_key(sandbox)}\r\nHost: x\r\nConnection: close\r\n\r\n"
    writer.write(head + authorization.encode() + body)
    try:
        return int((await reader.readuntil(b"\r\n")).split()[1])
    finally:
        writer.close()


def _port(sandbox: Sandbox) -> int:
    return int(_url(sandbox).split(":")[2].split("/")[0])


@pytest.mark.parametrize("chunked", [False, True], ids=["of a known length", "chunked"])
async def test_a_body_of_100_mb_is_refused_and_never_in_memory(
    worker: Worker, tmp_path: Path, *, chunked: bool
) -> None:
    sandbox = await worker.sandbox()
    tracemalloc.start()
    try:
        arguments = (_url(sandbox), _key(sandbox), "chunked" if chunked else "length", "100")
        sender = await asyncio.create_subprocess_exec(
            sys.executable, "-c", POST_BIG, *arguments, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await sender.communicate()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    status, error = json.loads(out)
    assert status == 413
    assert error["message"] == "A body has at most 67,108,864 bytes here."
    assert error["solution"] == "Split the job into several."
    assert peak_bytes < 16 * MIB
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".part"]  # noqa: ASYNC240 -- a test's folder.
    assert (await sandbox.run(RUN_ONE)).told == 10


async def test_a_body_without_a_length_that_is_small_enough_is_taken(
    worker: Worker, http: aiohttp.ClientSession
) -> None:
    sandbox = await worker.sandbox()

    async def pieces() -> AsyncIterator[bytes]:
        for byte in json.dumps(JOB).encode():
            yield bytes([byte])

    assert (await _ask(http, sandbox, "POST", "/jobs", data=pieces()))[0] == 200


async def test_only_jobs_may_be_large_and_none_compressed(worker: Worker, http: aiohttp.ClientSession) -> None:
    sandbox = await worker.sandbox()
    large = json.dumps({"tags": ["x" * 100_000]})
    for method, path in (("POST", "/sessions"), ("PUT", "/jobs/q1/tags"), ("PATCH", "/sessions/s1"), ("GET", "/jobs")):
        assert (await _ask(http, sandbox, method, path, data=large))[0] == 413, path
    root = _url(sandbox).removesuffix("/experimental/api/v1")
    async with http.post(root + "/identity/token", data={"apikey": "x" * 100_000}) as answer:
        assert answer.status == 413, "nobody has shown a token yet"
    bomb = zlib.compress(bytes(100 * MIB))
    status, said = await _ask(http, sandbox, "POST", "/jobs", data=bomb, headers={"Content-Encoding": "deflate"})
    assert (status, said["errors"][0]["message"]) == (415, "Compressed bodies are not taken.")


async def test_connections_that_say_half_a_request_hold_up_nobody_else(
    worker: Worker, http: aiohttp.ClientSession
) -> None:
    hostile, other = await worker.sandbox(), await worker.sandbox()
    halves = (
        b"GET /experimental/api/v1/jo",
        f"POST /experimental/api/v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: apikey {_key(hostile)}\r\n"
        "Content-Length: 60000000\r\n\r\n{".encode(),
    )
    held = []
    for number in range(MAX_CONNECTIONS):
        _, writer = await asyncio.open_connection("127.0.0.1", _port(hostile))
        writer.write(halves[number % 2])
        held.append(writer)
    status, said = await _ask(http, hostile, "GET", "/jobs")
    assert status == 503
    assert f"{MAX_CONNECTIONS} connections" in said["errors"][0]["message"]
    assert (await other.run(RUN_ONE)).told == 10
    for writer in held:
        writer.close()
        await writer.wait_closed()
    assert (await hostile.run(RUN_ONE)).told == 10


def _zeros_in_little(size: int) -> bytes:
    """Return a zlib stream of an array of so many zero bytes, without making them."""
    block = bytes(16 * MIB)
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size},), }}".encode()
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.ljust(117) + b"\n"
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = deflate.compress(header) + deflate.flush(zlib.Z_FULL_FLUSH)
    zeros = deflate.compress(block) + deflate.flush(zlib.Z_FULL_FLUSH)
    checksum = zlib.adler32(header)
    low, high = checksum & 0xFFFF, checksum >> 16
    trailer = struct.pack(">HH", (high + low * size) % 65521, low)
    return b"\x78\xda" + start + zeros * (size // len(block)) + deflate.flush() + trailer


async def test_a_zip_bomb_ends_its_own_job_and_no_other(
    broker: PrivateBroker, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    services = start_services(broker, tmp_path, simulator_memory_bytes=str(2048 * MIB))
    worker = Worker(services, tmp_path)
    await worker.start()
    sandbox = await worker.sandbox()
    bomb = _zeros_in_little(3 * 1024 * MIB)
    value = {"__type__": "ndarray", "__value__": base64.b64encode(bomb).decode()}
    body = json.dumps(JOB | {"params": {"pubs": [["x", value, 10]], "version": 2}}).encode()
    status, job = await _ask(http, sandbox, "POST", "/jobs", data=io.BytesIO(body))
    assert status == 200
    failed = await sandbox.until("Failed")
    assert failed.qpu_job_id == job["id"]
    assert failed.text.startswith("The simulation ran out of memory")
    assert (await sandbox.run(RUN_ONE)).told == 10
    process = services.qpu_broker.process
    assert process is not None
    assert process.poll() is None
    await worker.stop()
    services.stop()


async def test_ids_of_another_program_are_not_there_on_any_path(worker: Worker, http: aiohttp.ClientSession) -> None:
    owner, thief = await worker.sandbox(user="ada"), await worker.sandbox(user="mallory")
    job_id, session_id = (
        await owner.run(
            RUN
            + """
session = Session(backend=backend)
job = SamplerV2(mode=session).run([(isa,)], shots=10)
job.result()
print(json.dumps([job.job_id(), session.session_id]))
"""
        )
    ).told
    jobs = [("GET", ""), ("GET", "?exclude_params=true"), ("GET", "/results"), ("GET", "/metrics"), ("GET", "/logs"),
            ("POST", "/cancel"), ("DELETE", ""), ("PUT", "/tags")]  # fmt: skip
    sessions = [("GET", ""), ("PATCH", ""), ("DELETE", "/close")]
    asked = [(method, f"/jobs/{job_id}{rest}") for method, rest in jobs]
    asked += [(method, f"/sessions/{session_id}{rest}") for method, rest in sessions]
    for method, path in asked:
        body = {"accepting_jobs": False} if method == "PATCH" else {"tags": ["stolen"]} if method == "PUT" else None
        status, said = await _ask(http, thief, method, path, json=body)
        assert status == 404, (method, path)
        assert said["errors"][0]["message"].startswith("There is no "), (method, path)
    for method in ("HEAD", "OPTIONS", "TRACE", "PUT", "POST"):
        assert (await _ask(http, thief, method, f"/jobs/{job_id}"))[0] in {404, 405}, method
    assert (await _ask(http, thief, "GET", f"/jobs?session_id={session_id}"))[1]["count"] == 0
    assert (await _ask(http, thief, "POST", "/jobs", json=JOB | {"session_id": session_id}))[0] == 400
    _, job = await _ask(http, owner, "GET", f"/jobs/{job_id}")
    assert job["tags"] == []
    assert (await _ask(http, owner, "GET", f"/sessions/{session_id}"))[1]["accepting_jobs"]


@pytest.mark.parametrize(
    "path",
    ["/jobs/..%2f..%2fetc%2fpasswd", "/jobs/%2e%2e", "/jobs/../sessions", "/backends/../jobs", "//jobs", "/jobs/",
     "/jobs//cancel", "/jobs/q%00", "/jobs/q%0d%0aX:y", "/backends/%2e%2e/jobs", "/jobs/%ff", "/./jobs", "/jobs;x",
     "/backends/" + "x" * 7000, "/" + "jobs/" * 1500],
)  # fmt: skip
async def test_odd_paths_lead_nowhere(worker: Worker, path: str) -> None:
    sandbox = await worker.sandbox()
    for method in (b"GET", b"POST", b"DELETE"):
        assert await _raw(sandbox, method + b" /experimental/api/v1" + path.encode() + b" HTTP/1.1") == 404


@pytest.mark.parametrize(
    "head",
    [b"GET /experimental/api/v1/jobs/q\x00 HTTP/1.1", b"GET /experimental/api/v1/jobs/" + b"x" * 200_000 + b" HTTP/1.1",
     b"GET /experimental/api/v1/jobs HTTP/1.1\r\nX: " + b"x" * 200_000, b"\x16\x03\x01\x02\x00\x01\x00",
     b"GET /experimental/api/v1/jobs HTTP/1.1" + b"\r\nX: y" * 50_000],
)  # fmt: skip
async def test_heads_that_are_none_or_too_long_are_refused(worker: Worker, head: bytes) -> None:
    sandbox = await worker.sandbox()
    assert await _raw(sandbox, head) == 400
    assert await _raw(sandbox, b"GET /experimental/api/v1/jobs HTTP/1.1") == 200


async def test_no_token_but_the_programs_own_opens_anything(worker: Worker, http: aiohttp.ClientSession) -> None:
    sandbox, other = await worker.sandbox(), await worker.sandbox()
    job_id = sandbox.context.job_id
    expired = Identity(job_id, lambda: 1_000_000_000.0)
    expired._key = sandbox.endpoint._identity._key
    tokens = {
        "another program's": other.endpoint._identity.access_token()["access_token"],
        "of a key made up for this job": Identity(job_id).access_token()["access_token"],
        "expired": expired.access_token()["access_token"],
    }
    paths = ["/backends", "/jobs", "/instances/usage", "/jobs/q1", "/nowhere", "/jobs/..%2f", "/sessions/s1"]
    for what, token in tokens.items():
        for path in paths:
            authorization = {"Authorization": f"Bearer {token}"}
            status, said = await _ask(http, sandbox, "GET", path, headers=authorization)
            assert status == 401, (what, path)
            assert "not the program's own" in said["errors"][0]["message"]
    with pytest.raises(AssertionError, match="Please check that you are using a valid API token"):
        _ = (await sandbox.run(RUN_ONE, QISKIT_IBM_TOKEN=_key(other))).told


async def test_a_post_that_is_repeated_because_its_answer_was_lost_is_one_job(
    worker: Worker, services: Services, http: aiohttp.ClientSession
) -> None:
    sandbox = await worker.sandbox()
    body = json.dumps(JOB).encode()
    for _ in range(3):
        _, writer = await asyncio.open_connection("127.0.0.1", _port(sandbox))
        writer.write(
            b"POST /experimental/api/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n"
            b"Authorization: apikey %s\r\n\r\n%s" % (len(body), _key(sandbox).encode(), body)
        )
        writer.close()
        await writer.wait_closed()
    status, answered = await _ask(http, sandbox, "POST", "/jobs", data=body)
    assert status == 200
    count = "SELECT count(*), min(qpu_job_id) FROM qpu_jobs WHERE job_id = ?"
    assert services.ledger(count, sandbox.context.job_id) == [(1, answered["id"])]
    _, again = await _ask(http, sandbox, "POST", "/jobs", data=body)
    assert again["id"] != answered["id"], "an answer that arrived ends its post: the next one is another job"


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


BODIES = {
    "nested": f'{{"program_id": "sampler", "backend": "ibm_torino", "params": {{"x": {_nested(100_000)}}}}}',
    "twice": json.dumps(JOB)[:-1] + ', "backend": "ibm_fez"}',
    "twice inside": '{"program_id": "sampler", "backend": "ibm_torino", "params": {"a": 1, "a": 2}}',
    "huge tag": json.dumps(JOB | {"tags": ["x" * 10_000_000]}),
    "many tags": json.dumps(JOB | {"tags": ["x"] * 1_000_000}),
    "half a character": json.dumps(JOB | {"tags": ["\ud800"]}),
    "half a character in a session": json.dumps(JOB | {"session_id": "\ud800"}),
    "huge number": json.dumps(JOB)[:-1] + f', "cost": {"9" * 5000}}}',
    "no number": json.dumps(JOB)[:-1] + ', "cost": 1e999}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_bodies_made_to_confuse_are_refused(worker: Worker, http: aiohttp.ClientSession, body: str) -> None:
    sandbox = await worker.sandbox()
    status, said = await _ask(http, sandbox, "POST", "/jobs", data=io.BytesIO(body.encode()))
    assert status == 400
    assert len(said["errors"][0]["message"]) < 500
    assert (await _ask(http, sandbox, "GET", "/jobs"))[1]["count"] == 0


async def test_a_content_type_changes_nothing(worker: Worker, http: aiohttp.ClientSession) -> None:
    sandbox = await worker.sandbox()
    root = _url(sandbox).removesuffix("/experimental/api/v1")
    for kind in ("text/html", "multipart/form-data", "multipart/form-data; boundary=x", "nonsense", ""):
        headers = {"Content-Type": kind}
        assert (await _ask(http, sandbox, "POST", "/jobs", data=json.dumps(JOB), headers=headers))[0] == 200, kind
        async with http.post(root + "/identity/token", data=b'{"apikey": "\xff"}', headers=headers) as answer:
            assert answer.status == 400, kind
