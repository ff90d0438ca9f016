"""The REST front as a server: where it listens, how paths and refusals are taken, and how it ends."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
import socket
import ssl
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry
from qonduit_gateway import __version__
from qonduit_gateway.api.callers import CallerInterceptor
from qonduit_gateway.rest import bodies
from qonduit_gateway.rest.app import application
from qonduit_gateway.rest.calls import RestCalls
from qonduit_gateway.rest.openapi import Operation, document
from qonduit_gateway.rest.protocol import BESIDE_BODIES_BYTES, HttpProtocol
from qonduit_gateway.rest.server import RestServer
from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from starlette.requests import Request


class Open(CallerInterceptor):
    """Lets everybody in, without a database."""

    def __init__(self) -> None:
        super().__init__(None)  # type: ignore[arg-type]

    async def _user(self, context: object) -> None:  # type: ignore[override]
        del context


async def echo(request: Request) -> Response:
    """Answer with what came."""
    return JSONResponse({"path": request.url.path, **await bodies.json_object(request)})


async def spoken(request: Request) -> Response:
    """Say a text in UTF-8."""
    return Response(bodies.text(await bodies.json_object(request), "text").encode())


async def fault(_request: Request) -> Response:
    """Fail."""
    raise ZeroDivisionError("secret")


async def work(_request: Request) -> Response:
    """Work for some milliseconds, and say for how many."""
    began = time.perf_counter()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10_000)
    return JSONResponse((time.perf_counter() - began) * 1000)


OPERATIONS = [
    Operation("POST", "/echo/{name}", echo),
    Operation("GET", "/fault", fault),
    Operation("POST", "/spoken", spoken),
    Operation("GET", "/work", work),
]


def server(
    host: str = "127.0.0.1", port: int = 0, *, serving: Callable[[], bool] = lambda: True, cert: Path | None = None,
    key: Path | None = None,
) -> RestServer:  # fmt: skip
    calls = RestCalls(Open(), CollectorRegistry())
    return RestServer(lambda: application(OPERATIONS, calls, serving), host=host, port=port, tls_cert=cert, tls_key=key)


@pytest.fixture
async def running() -> AsyncIterator[RestServer]:
    made = server()
    await made.start()
    yield made
    await made.stop()


async def answer_of(running: RestServer, method: str, path: str, body: bytes, **headers: str) -> tuple[str, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.ports["rest_port"])
    sent = {"Host": "here", "Connection": "close", "Content-Length": str(len(body)), **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "", ""]
    writer.write("\r\n".join(lines).encode() + body)
    head, _, content = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head.decode(), content


async def call(running: RestServer, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, object]:
    head, content = await answer_of(running, method, path, body, **headers)
    return int(head.split()[1]), json.loads(content)


@pytest.mark.parametrize("end", ["", "/"])
async def test_a_last_slash_makes_no_difference_and_no_redirect(running: RestServer, end: str) -> None:
    status, answer = await call(running, "POST", f"/api/v1/echo/x{end}", b'{"a": 1}')
    assert (status, answer) == (200, {"path": "/api/v1/echo/x", "a": 1})


async def test_every_refusal_is_an_object(running: RestServer) -> None:
    assert await call(running, "GET", "/api/v1/nothing") == (404, {"message": "Not Found"})
    assert await call(running, "GET", "/api/v1/echo/x") == (405, {"message": "Method Not Allowed"})
    assert await call(running, "POST", "/api/v1/echo/x", b"[1]") == (
        400,
        {"message": "The body must be a JSON object, not a list."},
    )
    status, answer = await call(running, "POST", "/api/v1/spoken", b'{"text": "\\ud800"}')
    assert (status, "half of a surrogate pair" in str(answer)) == (400, True)
    status, answer = await call(running, "GET", "/api/v1/fault")
    assert status == 500
    assert "secret" not in str(answer)
    assert "Internal server error (request " in str(answer)


async def test_every_answer_tells_how_long_it_took(running: RestServer) -> None:
    began = time.perf_counter()
    head, content = await answer_of(running, "GET", "/api/v1/work", b"")
    most = (time.perf_counter() - began) * 1000
    refusal, _ = await answer_of(running, "GET", "/api/v1/nothing", b"")
    took, refused = (re.search(r"(?im)^server-timing: total;dur=([0-9.]+)\r?$", each) for each in (head, refusal))
    assert took is not None
    assert refused is not None
    rounding = 0.01
    assert json.loads(content) - rounding <= float(took[1]) <= most + rounding


async def test_what_deployments_probe_is_there_without_a_token() -> None:
    ready = True
    made = server(serving=lambda: ready)
    await made.start()
    try:
        assert await call(made, "GET", "/readiness/") == (200, {"status": "ok"})
        assert await call(made, "GET", "/liveness") == (200, {"status": "ok"})
        assert await call(made, "GET", "/version/") == (200, {"version": __version__})
        assert await call(made, "GET", "/swagger.json") == await call(made, "GET", "/api/v1/openapi.json")
        ready = False
        assert await call(made, "GET", "/readiness") == (503, {"status": "not serving"})
        assert (await call(made, "GET", "/liveness"))[0] == 200
    finally:
        await made.stop()


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(running: RestServer) -> None:
    size = {"Content-Length": str(bodies.JSON_LIMIT_BYTES + 1)}
    status, answer = await call(running, "POST", "/api/v1/echo/x", **size)
    assert status == 413
    assert "more than 64 MiB" in str(answer)
    assert "Upload large data as a file" in str(answer)


async def test_it_refuses_to_listen_beyond_loopback_without_tls() -> None:
    with pytest.raises(ValueError, match=r"refusing to listen on 0\.0\.0\.0 without TLS"):
        await server("0.0.0.0").start()  # noqa: S104 - which is refused.


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
async def test_with_a_certificate_it_speaks_tls(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(  # noqa: ASYNC221 - nothing else runs.
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    made = server(cert=cert, key=key)
    await made.start()
    try:
        trusted = ssl.create_default_context(cafile=str(cert))
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", made.ports["rest_port"], ssl=trusted, server_hostname="localhost"
        )
        writer.write(b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
    finally:
        await made.stop()


async def test_answers_on_a_kept_connection_are_not_delayed(monkeypatch: pytest.MonkeyPatch) -> None:
    delayed: list[bool] = []

    class Watched(HttpProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            sock = transport.get_extra_info("socket")
            delayed.append(not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            super().connection_made(transport)

    monkeypatch.setattr("qonduit_gateway.rest.server.HttpProtocol", Watched)
    made = server()
    await made.start()
    try:
        assert (await call(made, "GET", "/liveness"))[0] == 200
        assert delayed == [False]
    finally:
        await made.stop()


HEAD = b"POST /api/v1/spoken HTTP/1.1\r\nHost: here\r\n"


@pytest.mark.parametrize(
    "begun",
    [
        HEAD + b"X-Long: ",
        b"GET /",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Long: ",
    ],
    ids=["header", "path", "trailer"],
)
async def test_what_has_no_end_is_refused(running: RestServer, begun: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.ports["rest_port"])
    # More than is read at once, as only what comes after the last of a body counts.
    writer.write(begun + b"x" * 6 * BESIDE_BODIES_BYTES)
    with suppress(ConnectionResetError, BrokenPipeError):  # What was not read any more may cost the answer.
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
    writer.close()


async def test_a_body_in_many_small_chunks_is_no_head_without_an_end(running: RestServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.ports["rest_port"])
    writer.write(HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
    text = "x" * (BESIDE_BODIES_BYTES // 4)
    writer.write(b"".join(b"1\r\n%c\r\n" % byte for byte in json.dumps({"text": text}).encode()) + b"0\r\n\r\n")
    assert (await reader.read()).endswith(b"\r\n\r\n" + text.encode())
    writer.close()


async def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="is the port in use"):
            await server(port=other.getsockname()[1]).start()


async def test_it_stops_twice_and_is_told_when_it_ends_by_itself() -> None:
    made = server()
    await made.start()
    failing = asyncio.create_task(made.failure())
    await asyncio.sleep(0)
    await made.stop()
    await made.stop()
    assert "ended by itself" in str(await failing)


def test_the_description_has_every_route_with_what_it_says_of_itself() -> None:
    described = document(OPERATIONS)["paths"]
    assert described["/api/v1/echo/{name}"]["post"]["summary"] == "Answer with what came."
    assert described["/api/v1/echo/{name}"]["post"]["parameters"][0]["name"] == "name"
    assert set(described) == {"/api/v1/echo/{name}", "/api/v1/fault", "/api/v1/spoken", "/api/v1/work"}
