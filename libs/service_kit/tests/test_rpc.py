from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry
from qonduit_service_kit import interceptors
from qonduit_service_kit.rpc import ApiError, GrpcServer, channel, from_rpc_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NAME = "demo.Demo"
ALL_INTERFACES = "0.0.0.0"  # noqa: S104 - what is to be refused.
NOT_FOUND = ApiError(
    grpc.StatusCode.NOT_FOUND,
    "JOB_NOT_FOUND",
    "There is no job 'j'. List yours with `qonduit jobs`.",
    metadata={"job": "j"},
    violations={"job_id": "unknown"},
)


async def answer_or_raise(request: StringValue, context: Any) -> StringValue:
    match request.value:
        case "refused":
            raise NOT_FOUND
        case "broken":
            raise RuntimeError("the password is hunter22")
        case "long":
            text = 50 * "There is no fünction \udcff. " + 100_000 * "x"
            fields = {"one": text, "two": text}
            raise ApiError(grpc.StatusCode.NOT_FOUND, "FUNCTION_NOT_FOUND", text, metadata=fields, violations=fields)
    return StringValue(value=dict(context.invocation_metadata()).get("authorization", ""))


async def stream_then_raise(request: StringValue, context: Any) -> AsyncIterator[StringValue]:
    yield StringValue(value="one")
    yield await answer_or_raise(request, context)


async def write_then_raise(request: StringValue, context: Any) -> None:
    await context.write(StringValue(value="one"))
    await context.write(await answer_or_raise(request, context))


async def answer_without_end(_request: StringValue, _context: Any) -> AsyncIterator[StringValue]:
    while True:
        yield StringValue(value=1_000_000 * "x")


async def answer_too_much(_request: StringValue, _context: Any) -> AsyncIterator[StringValue]:
    yield StringValue(value=5_000_000 * "x")


async def count(requests: AsyncIterator[StringValue], context: Any) -> StringValue:
    texts = [request.value async for request in requests]
    return await answer_or_raise(StringValue(value=texts[-1]), context)


async def answer_to_the_first(requests: AsyncIterator[StringValue], context: Any) -> StringValue:
    return await answer_or_raise(await anext(requests), context)


def register(server: grpc.aio.Server) -> None:
    coded: dict[str, Any] = {
        "request_deserializer": StringValue.FromString,
        "response_serializer": StringValue.SerializeToString,
    }
    handlers: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(answer_or_raise, **coded),
        "Stream": grpc.unary_stream_rpc_method_handler(stream_then_raise, **coded),
        "Write": grpc.unary_stream_rpc_method_handler(write_then_raise, **coded),
        "Endless": grpc.unary_stream_rpc_method_handler(answer_without_end, **coded),
        "TooMuch": grpc.unary_stream_rpc_method_handler(answer_too_much, **coded),
        "Count": grpc.stream_unary_rpc_method_handler(count, **coded),
        "First": grpc.stream_unary_rpc_method_handler(answer_to_the_first, **coded),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc,unused-ignore]
    """Refuses a caller before the handler is known."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        if dict(handler_call_details.invocation_metadata).get("authorization") == "Bearer wrong":
            raise ApiError(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID", "Log in again.")
        return await continuation(handler_call_details)


@pytest.fixture
async def server() -> AsyncIterator[GrpcServer]:
    made = GrpcServer(register, services=[NAME], interceptors=[Guard()], registry=CollectorRegistry())
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def client(server: GrpcServer) -> AsyncIterator[grpc.aio.Channel]:
    async with channel(server.address, token="tok") as made:
        yield made


def coders() -> dict[str, Any]:
    return {"request_serializer": StringValue.SerializeToString, "response_deserializer": StringValue.FromString}


async def unary(client: grpc.aio.Channel, text: str) -> str:
    answer = await client.unary_unary(f"/{NAME}/Unary", **coders())(StringValue(value=text))
    value: str = answer.value
    return value


async def stream(client: grpc.aio.Channel, method: str, text: str) -> list[str]:
    call = client.unary_stream(f"/{NAME}/{method}", **coders())(StringValue(value=text))
    return [answer.value async for answer in call]


async def counted(client: grpc.aio.Channel, text: str) -> str:
    async def requests() -> AsyncIterator[StringValue]:
        for value in ("x", "y", text):
            yield StringValue(value=value)

    answer = await client.stream_unary(f"/{NAME}/Count", **coders())(requests())
    value: str = answer.value
    return value


async def test_the_token_goes_with_every_kind_of_call(client: grpc.aio.Channel) -> None:
    assert await unary(client, "hello") == "Bearer tok"
    assert await stream(client, "Stream", "hello") == ["one", "Bearer tok"]
    assert await stream(client, "Write", "hello") == ["one", "Bearer tok"]
    assert await counted(client, "hello") == "Bearer tok"


@pytest.mark.parametrize("kind", ["Unary", "Stream", "Write", "Count"])
async def test_a_refusal_crosses_the_wire_by_type(client: grpc.aio.Channel, kind: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await {"Unary": unary, "Count": counted}[kind](client, "refused") if kind in {
            "Unary",
            "Count",
        } else await stream(client, kind, "refused")
    error = from_rpc_error(caught.value)
    assert (error.code, error.reason, error.text) == (NOT_FOUND.code, NOT_FOUND.reason, NOT_FOUND.text)
    assert error.metadata == {"job": "j"}
    assert error.violations == {"job_id": "unknown"}


@pytest.mark.parametrize(
    ("token", "text", "code"),
    [
        ("tok", "refused", grpc.StatusCode.NOT_FOUND),
        ("tok", "hello", grpc.StatusCode.OK),
        ("wrong", "hello", grpc.StatusCode.UNAUTHENTICATED),
    ],
)
async def test_who_uploads_on_hears_the_answer(
    server: GrpcServer, monkeypatch: pytest.MonkeyPatch, token: str, text: str, code: grpc.StatusCode
) -> None:
    for name in ("_HEAR_OUT_S", "_PAUSE_S"):
        monkeypatch.setattr(interceptors, name, 100.0)  # Either may stop for seconds.
    async with channel(server.address, token=token) as client:
        upload = client.stream_unary(f"/{NAME}/First", **coders())
        for _ in range(50):
            call = upload(StringValue(value=part) for part in (text, *["more" * 10_000] * 20))
            assert await call.code() == code


async def test_a_refusal_that_names_something_huge_or_damaged_still_arrives(client: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await unary(client, "long")
    error = from_rpc_error(caught.value)
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "FUNCTION_NOT_FOUND")
    assert error.text.startswith("There is no fünction ?.")


def test_an_end_under_a_write_may_be_tried_again() -> None:
    hidden = grpc.aio.AioRpcError(
        grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata(), "Internal error from Core"
    )
    assert from_rpc_error(hidden).code is grpc.StatusCode.UNAVAILABLE


async def test_an_unforeseen_error_tells_the_caller_an_id_and_nothing_else(client: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await unary(client, "broken")
    error = from_rpc_error(caught.value)
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert error.metadata["request_id"] in error.text
    assert "hunter22" not in error.text


async def test_an_interceptor_may_refuse_a_call_of_any_kind(server: GrpcServer) -> None:
    async with channel(server.address, token="wrong") as client:
        for call in (unary(client, "x"), stream(client, "Stream", "x"), counted(client, "x")):
            with pytest.raises(grpc.RpcError) as caught:
                await call
            assert from_rpc_error(caught.value).reason == "TOKEN_INVALID"


async def test_an_unknown_method_stays_unimplemented(client: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await client.unary_unary(f"/{NAME}/Nothing", **coders())(StringValue())
    error = from_rpc_error(caught.value)
    assert (error.code, error.reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNKNOWN")


async def test_a_client_that_leaves_is_no_error(client: grpc.aio.Channel, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    endless = client.unary_stream(f"/{NAME}/Endless", **coders())
    async with asyncio.timeout(60):
        # Whether a message is on its way at that moment is not known.
        while "client left" not in caplog.text:
            await endless(StringValue(), timeout=0.1).code()
    assert f"client left before it had the whole answer of [/{NAME}/Endless]" in caplog.messages
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert "Traceback" not in caplog.text


async def test_an_answer_that_is_too_large_is_an_error(
    client: grpc.aio.Channel, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await stream(client, "TooMuch", "")
    assert from_rpc_error(caught.value).code is grpc.StatusCode.RESOURCE_EXHAUSTED
    logged = capsys.readouterr().out
    assert all(words in logged for words in ("error", "answer too large", f"/{NAME}/TooMuch", "5000005"))


async def test_calls_are_counted_by_method_and_code() -> None:
    registry = CollectorRegistry()
    server = GrpcServer(register, services=[NAME], registry=registry)
    await server.start()
    async with channel(server.address) as client:
        await unary(client, "hello")
        for text in ("refused", "broken"):
            with pytest.raises(grpc.RpcError):
                await unary(client, text)
    await server.stop()
    for code in ("OK", "NOT_FOUND", "INTERNAL"):
        labels = {"method": f"/{NAME}/Unary", "code": code}
        assert registry.get_sample_value("qonduit_rpc_calls_total", labels) == 1


async def test_health_follows_the_server() -> None:
    server = GrpcServer(register, services=[NAME], stop_grace_s=60, registry=CollectorRegistry())
    await server.start()
    async with channel(server.address) as client:
        stub = health_pb2_grpc.HealthStub(client)
        for name in ("", NAME):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=NAME))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(server.stop())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        await stopping


@pytest.mark.parametrize("host", [ALL_INTERFACES, "::", "192.0.2.1", "example.org"])
async def test_it_refuses_to_listen_beyond_loopback_without_tls(host: str) -> None:
    with pytest.raises(ValueError, match="without TLS"):
        await GrpcServer(register, services=[NAME], host=host, registry=CollectorRegistry()).start()


@pytest.mark.parametrize("half", ["tls_cert", "tls_key"])
async def test_half_of_a_tls_pair_is_refused_rather_than_served_without_tls(half: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {half: tmp_path / "half.pem"}
    with pytest.raises(ValueError, match="both"):
        await GrpcServer(register, services=[NAME], host=ALL_INTERFACES, registry=CollectorRegistry(), **given).start()


async def test_it_listens_beyond_loopback_when_told_so_in_words() -> None:
    server = GrpcServer(
        register, services=[NAME], host=ALL_INTERFACES, allow_insecure=True, registry=CollectorRegistry()
    )
    await server.start()
    assert server.ports == {"grpc_port": server.port}
    await server.stop()
    await server.stop()


async def test_a_taken_port_is_named(server: GrpcServer) -> None:
    second = GrpcServer(register, services=[NAME], port=server.port, registry=CollectorRegistry())
    with pytest.raises(OSError, match=f"127.0.0.1:{server.port}.*in use"):
        await second.start()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
async def test_with_a_certificate_it_speaks_tls(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    server = GrpcServer(register, services=[NAME], tls_cert=cert, tls_key=key, registry=CollectorRegistry())
    await server.start()
    async with channel(f"localhost:{server.port}", token="tok", ca=cert) as client:
        assert await unary(client, "hello") == "Bearer tok"
    await server.stop()


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for this machine and return it with its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


async def test_who_stops_reading_is_sent_a_few_megabytes_more_at_most() -> None:
    stopped, over = asyncio.Event(), asyncio.Event()

    async def read_some(requests: AsyncIterator[bytes], _context: Any) -> bytes:
        for _ in range(16):
            await anext(requests)
        stopped.set()
        await over.wait()
        return b""

    def register_it(server: grpc.aio.Server) -> None:
        handlers = {"ReadSome": grpc.stream_unary_rpc_method_handler(read_some)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))

    server = GrpcServer(register_it, services=[NAME], registry=CollectorRegistry())
    await server.start()
    async with channel(server.address) as client:
        call = client.stream_unary(f"/{NAME}/ReadSome")()
        for _ in range(16):
            await call.write(bytes(1024**2))
        await stopped.wait()
        ahead = 0
        with contextlib.suppress(TimeoutError):
            while ahead <= 8:
                async with asyncio.timeout(1):  # A write that takes as long waits for a reader.
                    await call.write(bytes(1024**2))
                ahead += 1
        over.set()
        assert ahead <= 8
    await server.stop()
