"""A store that fails, is slow, or is not there. That it works is shown by all other tests, which run on it too."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc import StatusCode
from qonduit_api.internal.v1 import storage_pb2 as pb
from qonduit_service_kit.rpc import from_rpc_error
from qonduit_storage.errors import StorageError

pytest.importorskip("obstore", reason="the extra s3 is not installed")

from qonduit_storage import s3
from s3_server import FaultyProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.parametrize("kept", ["s3"], indirect=True)
MIB = 1024 * 1024


@pytest.fixture
def proxy(s3_port: int) -> Iterator[FaultyProxy]:
    made = FaultyProxy(s3_port)
    yield made
    made.stop()


@pytest.fixture
def settings(kept: Any, proxy: FaultyProxy) -> dict[str, Any]:
    """Those of a service that reaches the store through the proxy."""
    return {**kept.settings, "s3_endpoint": f"http://127.0.0.1:{proxy.port}", "s3_patience_s": 60}


async def test_large_objects_go_in_parts_and_come_back(client: Any, kept: Any) -> None:
    data = random.Random(1).randbytes(20 * MIB + 5)  # noqa: S311 - No secret.
    digest = (await client.put_blob(data)).digest
    assert kept.read(f"blobs/{digest[:2]}/{digest}") == data
    assert await client.get_blob(digest) == data
    assert await client.get_blob(digest, 20 * MIB) == data[20 * MIB :]


async def test_a_store_that_answers_503_at_first_is_asked_again(
    make_storage: Callable[..., Any], settings: dict[str, Any], proxy: FaultyProxy, make_tar: Callable[..., bytes]
) -> None:
    client = await (await make_storage(**settings)).client()
    asked: Counter[tuple[str, str]] = Counter()

    def at_first(method: str, path: str) -> int:
        asked[method, path] += 1
        return 503 if asked[method, path] <= 2 else 0

    proxy.fault = at_first
    files = {f"{number}.tar": make_tar(bytes([number]) * 1000) for number in range(8)}
    await asyncio.gather(*(client.put_file(name, data) for name, data in files.items()))
    for name, data in files.items():
        assert (await client.get_file(name))[1] == data
    assert await client.names() == sorted(files)
    assert min(asked.values()) > 2


async def test_patience_and_not_a_count_of_retries_decides_how_long_a_store_is_waited_for(
    make_storage: Callable[..., Any],
    settings: dict[str, Any],
    proxy: FaultyProxy,
    make_tar: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    soon = timedelta(milliseconds=20)
    monkeypatch.setattr(s3, "_BACKOFF", {"init_backoff": soon, "max_backoff": soon})
    client = await (await make_storage(**settings)).client()
    asked: Counter[tuple[str, str]] = Counter()

    def long_away(method: str, path: str) -> int:
        asked[method, path] += 1
        return 503 if asked[method, path] <= 30 else 0

    proxy.fault = long_away
    await client.put_file("a.tar", make_tar(b"a"))
    assert max(asked.values()) == 31


async def test_a_store_that_fails_is_told_without_its_keys_and_address(
    make_storage: Callable[..., Any],
    settings: dict[str, Any],
    proxy: FaultyProxy,
    make_tar: Callable[..., bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    client = await (await make_storage(**{**settings, "s3_patience_s": 1})).client()
    texts = {}
    for status in (503, 403):
        proxy.fault = lambda _method, _path, status=status: status
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.put_file("a.tar", make_tar(b"a"))
        texts[status] = from_rpc_error(caught.value).text
    assert "does not answer (HTTP 503), though it was tried for 1 s. Try again" in texts[503]
    assert "refuses what it is asked for (HTTP 403). Try again" in texts[403]
    for text in texts.values():
        assert text.endswith("tell the operator, who finds more in the storage service's log.")
        assert not any(inside in text for inside in ("contents/", "files/", str(proxy.port)))
    assert f"127.0.0.1:{proxy.port}" in capsys.readouterr().out


async def test_a_store_that_is_away_is_said_and_nothing_is_lost(
    make_storage: Callable[..., Any],
    settings: dict[str, Any],
    proxy: FaultyProxy,
    make_tar: Callable[..., bytes],
    must_refuse: Callable[..., Any],
) -> None:
    client = await (await make_storage(**{**settings, "s3_patience_s": 0.5})).client()
    old = make_tar(b"old")
    await client.put_file("a.tar", old)
    data = make_tar(random.Random(3).randbytes(2 * MIB))  # noqa: S311 - No secret.
    proxy.fault = lambda method, _path: 503 if method in {"PUT", "POST"} else 0
    async with must_refuse(StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
        await client.put_file("a.tar", data)
    assert (await client.get_file("a.tar"))[1] == old
    proxy.fault = lambda _method, _path: 0
    # All of it arrived, so nothing has to be sent again.
    told = next(client.file_requests("a.tar", data)).header
    asked = pb.StatUploadRequest(space=told.space, name=told.name, size_bytes=told.size_bytes, digest=told.digest)
    assert (await client.spaces.StatUpload(asked)).received_bytes == len(data)
    told.offset = len(data)
    await client.spaces.PutFile(iter([pb.PutFileRequest(header=told)]))
    assert (await client.get_file("a.tar"))[1] == data


async def test_a_slow_store_holds_up_nobody_who_does_not_need_it(
    make_storage: Callable[..., Any], settings: dict[str, Any], proxy: FaultyProxy, make_tar: Callable[..., bytes]
) -> None:
    client = await (await make_storage(**settings)).client()
    await client.put_file("a.tar", make_tar(b"a"))
    proxy.open.clear()
    storing = asyncio.create_task(client.put_file("b.tar", make_tar(b"b")))
    async with asyncio.timeout(60):
        while not proxy.held:  # noqa: ASYNC110 - The proxy's thread counts.
            await asyncio.sleep(0.01)
        assert await client.names() == ["a.tar"]
        await client.append((1, 0, b"a line\n"))
    assert not storing.done()
    proxy.open.set()
    await storing
    assert await client.names() == ["a.tar", "b.tar"]


async def test_a_bucket_that_is_not_there_is_told_at_the_start(make_storage: Callable[..., Any], kept: Any) -> None:
    with pytest.raises(
        StorageError, match=r"refuses .*\(HTTP 404\).*QONDUIT_STORAGE_S3_BUCKET.*specified bucket does not"
    ):
        await make_storage(**{**kept.settings, "s3_bucket": "no-such-bucket", "s3_patience_s": 1})
