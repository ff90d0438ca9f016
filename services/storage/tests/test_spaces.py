"""Users' files over gRPC."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import tarfile
import unicodedata
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from grpc import StatusCode
from qonduit_api.internal.v1 import storage_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable

H5 = Path(__file__).with_name("samples").joinpath("latest.h5").read_bytes()


def contents(kept: Any) -> list[str]:
    return [key for key in kept.keys("spaces") if "/content/" in key]


def open_below(folder: Path) -> list[str]:
    """The files of this process there, also those that have lost their name."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # Closed since.
            found.append(link.readlink())
    return [str(file) for file in found if file.is_relative_to(folder)]


async def test_a_file_goes_in_and_comes_out(client: Any, make_tar: Callable[..., bytes]) -> None:
    data = make_tar(b"a" * 2_000_000)
    told = await client.put_file("data.tar", data)
    assert (told.name, told.size_bytes) == ("data.tar", len(data))
    assert told.create_time.seconds > 0
    assert await client.get_file("data.tar") == (told, data)
    assert (await client.get_file("data.tar", 1_500_000))[1] == data[1_500_000:]
    answer = await client.spaces.StatSpaceFile(pb.StatSpaceFileRequest(space="users/ada", name="data.tar"))
    assert answer.file == told


@pytest.mark.parametrize("second", [pb.PutFileRequest(header=pb.PutFileHeader(name="b.tar")), pb.PutFileRequest()])
async def test_after_its_header_an_upload_has_only_chunks(
    client: Any, make_tar: Callable[..., bytes], must_refuse: Callable[..., Any], second: pb.PutFileRequest
) -> None:
    header, *chunks = client.file_requests("a.tar", make_tar(b"a"))
    async with must_refuse(StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "only chunks"):
        await client.spaces.PutFile(iter([header, second, *chunks]))
    assert await client.names() == []


async def test_tar_gzip_and_hdf5_are_kept(client: Any, make_tar: Callable[..., bytes]) -> None:
    await client.put_file("a.tar", make_tar(b"a"))
    await client.put_file("b.tar", make_tar(b"b", mode="w:gz"))
    await client.put_file("c.h5", H5)
    assert await client.names() == ["a.tar", "b.tar", "c.h5"]


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("member", ["../x", "/etc/x", "a/../../x"])
async def test_members_that_would_leave_their_folder_are_kept_as_they_are(
    storage: Any, client: Any, style: int, member: str
) -> None:
    """Nothing is unpacked here: who unpacks refuses them, as the SDK does."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=style) as tar:
        tar.addfile(tarfile.TarInfo(member))
    await client.put_file("a.tar", archive.getvalue())
    assert (await client.get_file("a.tar"))[1] == archive.getvalue()
    assert not any(path.name == "x" for path in storage.folder.rglob("*"))


@pytest.mark.parametrize("kept", ["directory"], indirect=True)
@pytest.mark.parametrize("packed", [bytes, partial(gzip.compress, compresslevel=1)])
async def test_a_tar_of_very_many_members(
    client: Any, make_tar: Callable[..., bytes], packed: Callable[[bytes], bytes]
) -> None:
    member, end_mark = make_tar(b"a")[:1024], bytes(1024)
    data = packed(100_000 * member + end_mark)
    assert (await client.put_file("many.tar", data)).size_bytes == len(data)
    kept = (await client.get_file("many.tar"))[1]
    assert hashlib.sha256(kept).digest() == hashlib.sha256(data).digest()


async def test_files_survive_a_restart(make_storage: Callable[..., Any], make_tar: Callable[..., bytes]) -> None:
    first = await make_storage()
    client = await first.client()
    told = [await client.put_file(name, make_tar(name.encode())) for name in ("a.tar", "b.tar")]
    await first.stop()
    client = await (await make_storage()).client()
    answer = await client.spaces.ListSpace(pb.ListSpaceRequest(space="users/ada"))
    assert list(answer.files) == told
    assert (await client.get_file("b.tar"))[1] == make_tar(b"b.tar")


async def test_names_that_a_file_system_would_mix_up_are_kept_apart(
    client: Any, make_tar: Callable[..., bytes]
) -> None:
    composed = unicodedata.normalize("NFC", "größe.tar")
    names = ["data.tar", "Data.tar", composed, unicodedata.normalize("NFD", composed)]
    for name in names:
        await client.put_file(name, make_tar(name.encode()))
    assert await client.names() == sorted(names)
    for name in names:
        assert (await client.get_file(name))[1] == make_tar(name.encode())


async def test_a_list_comes_in_pages(client: Any, make_tar: Callable[..., bytes]) -> None:
    names = [f"{number}.tar" for number in range(5)]
    for name in names:
        await client.put_file(name, make_tar(b""))
    seen, token = [], ""
    while True:
        answer = await client.spaces.ListSpace(pb.ListSpaceRequest(space="users/ada", page_size=2, page_token=token))
        seen += [file.name for file in answer.files]
        token = answer.next_page_token
        if not token:
            break
    assert seen == names


async def test_bad_page_tokens_are_refused(client: Any, must_refuse: Callable[..., Any]) -> None:
    async with must_refuse(StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "page token"):
        await client.spaces.ListSpace(pb.ListSpaceRequest(space="users/ada", page_token="x"))
    async with must_refuse(StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "page size"):
        await client.spaces.ListSpace(pb.ListSpaceRequest(space="users/ada", page_size=-1))


async def test_replacing_and_deleting_leave_no_bytes_behind(
    kept: Any, client: Any, make_tar: Callable[..., bytes], must_refuse: Callable[..., Any]
) -> None:
    await client.put_file("a.tar", make_tar(b"old"))
    await client.put_file("b.tar", make_tar(b"old"))
    assert len(contents(kept)) == 1
    await client.put_file("a.tar", make_tar(b"new"))
    assert len(contents(kept)) == 2
    assert (await client.get_file("b.tar"))[1] == make_tar(b"old")
    for name in ("a.tar", "b.tar"):
        await client.spaces.DeleteSpaceFile(pb.DeleteSpaceFileRequest(space="users/ada", name=name))
    assert contents(kept) == []
    assert await client.names() == []
    async with must_refuse(StatusCode.NOT_FOUND, "FILE_NOT_FOUND", "a.tar"):
        await client.spaces.DeleteSpaceFile(pb.DeleteSpaceFileRequest(space="users/ada", name="a.tar"))
    async with must_refuse(StatusCode.NOT_FOUND, "FILE_NOT_FOUND"):
        await client.get_file("a.tar")


async def test_content_that_took_the_place_of_its_equal_leaves_no_file_open(
    make_storage: Callable[..., Any], make_tar: Callable[..., bytes]
) -> None:
    storage = await make_storage()
    client = await storage.client()
    for _ in range(3):
        await client.put_file("a.tar", make_tar(b"a"))
    assert (await client.get_file("a.tar"))[1] == make_tar(b"a")
    await storage.stop()
    assert open_below(storage.data) == []


async def test_a_reader_beside_many_writers_sees_whole_versions(
    storage: Any, kept: Any, client: Any, make_tar: Callable[..., bytes]
) -> None:
    versions = [make_tar(bytes([number]) * 300_000) for number in range(12)]
    await client.put_file("a.tar", versions[0])

    async def read() -> None:
        for _ in range(10):
            told, data = await client.get_file("a.tar")
            assert data in versions
            assert told.size_bytes == len(data)

    await asyncio.gather(read(), read(), *(client.put_file("a.tar", version) for version in versions))
    assert len(contents(kept)) == 1
    assert storage.incoming() == []


async def test_fifty_clients_at_once_on_one_name(storage: Any, kept: Any, make_tar: Callable[..., bytes]) -> None:
    """Each has a connection of its own; whoever reads meanwhile has one whole version, and the last to end stays."""
    versions = [make_tar(bytes([number]) * 20_000) for number in range(50)]
    clients = [await storage.client() for _ in versions]
    reader = await storage.client()
    await reader.put_file("a.tar", versions[0])

    async def read() -> None:
        for _ in range(20):
            told, data = await reader.get_file("a.tar")
            assert data in versions
            assert told.digest == hashlib.sha256(data).hexdigest()

    puts = [client.put_file("a.tar", data) for client, data in zip(clients, versions, strict=True)]
    *_, answers = await asyncio.gather(read(), read(), asyncio.gather(*puts))
    last = max(answers, key=lambda told: told.create_time.ToNanoseconds())
    told, data = await reader.get_file("a.tar")
    assert (told, data in versions) == (last, True)
    assert len(contents(kept)) == 1
    assert storage.incoming() == []


async def test_two_users_cannot_touch_each_others_files(
    storage: Any, make_tar: Callable[..., bytes], must_refuse: Callable[..., Any]
) -> None:
    spaces = {"ada": "users/ada", "bob": "users/bob"}
    clients = {name: await storage.client(read_space=space, write_space=space) for name, space in spaces.items()}
    for name, client in clients.items():
        client.space = spaces[name]
        await client.put_file("same.tar", make_tar(name.encode()))
    for name, other in (("ada", "bob"), ("bob", "ada")):
        for attempt in attempts(clients[name], spaces[other], make_tar(b"harm")):
            async with must_refuse(StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"):
                await attempt()
    for name, client in clients.items():
        assert (await client.get_file("same.tar"))[1] == make_tar(name.encode())


def attempts(client: Any, space: str, data: bytes) -> list[Callable[[], Any]]:
    """All that one can try on the files of a space."""
    spaces, same = client.spaces, {"space": space, "name": "same.tar"}
    upload = {**same, "size_bytes": len(data), "digest": hashlib.sha256(data).hexdigest()}

    async def read() -> list[Any]:
        return [answer async for answer in spaces.GetFile(pb.GetFileRequest(**same))]

    return [
        read,
        lambda: client.put_file("same.tar", data, space=space),
        lambda: spaces.StatSpaceFile(pb.StatSpaceFileRequest(**same)),
        lambda: spaces.ListSpace(pb.ListSpaceRequest(space=space)),
        lambda: spaces.GetSpaceUsage(pb.GetSpaceUsageRequest(space=space)),
        lambda: spaces.DeleteSpaceFile(pb.DeleteSpaceFileRequest(**same)),
        lambda: spaces.StatUpload(pb.StatUploadRequest(**upload)),
    ]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("folder/a.tar", b"x", "INVALID_FILE_NAME"),
        ("..", b"x", "INVALID_FILE_NAME"),
        ("a\0.tar", b"x", "INVALID_FILE_NAME"),
        ("a" * 300 + ".tar", b"x", "INVALID_FILE_NAME"),
        ("a.zip", b"x", "INVALID_FILE_NAME"),
        ("renamed.tar", b"just a text\n" * 200, "INVALID_FILE_CONTENT"),
        ("renamed.h5", b"just a text\n" * 200, "INVALID_FILE_CONTENT"),
        ("empty.tar", b"", "INVALID_FILE_CONTENT"),
        ("empty.h5", b"", "INVALID_FILE_CONTENT"),
    ],
)
async def test_refused_files_leave_nothing(
    storage: Any, must_refuse: Callable[..., Any], name: str, data: bytes, reason: str
) -> None:
    client = await storage.client()
    async with must_refuse(StatusCode.INVALID_ARGUMENT, reason):
        await client.put_file(name, data)
    assert await client.names() == []
    assert storage.incoming() == []
    counted = storage.registry.get_sample_value("qonduit_storage_refusals_total", {"reason": reason})
    assert counted == 1


async def test_the_bytes_must_be_shown_even_if_they_are_here(
    client: Any, make_tar: Callable[..., bytes], must_refuse: Callable[..., Any]
) -> None:
    told = await client.put_file("a.tar", make_tar(b"secret"))
    header = pb.PutFileHeader(space="users/ada", name="b.tar", size_bytes=told.size_bytes, digest=told.digest)
    async with must_refuse(StatusCode.INVALID_ARGUMENT, "DIGEST_MISMATCH"):
        await client.spaces.PutFile(iter([pb.PutFileRequest(header=header)]))


async def test_a_damaged_file_is_told_and_healed(
    kept: Any, client: Any, make_tar: Callable[..., bytes], must_refuse: Callable[..., Any]
) -> None:
    await client.put_file("a.tar", make_tar(b"a" * 1000))
    (key,) = contents(kept)
    kept.write(key, b"rotten")
    for _ in range(2):
        async with must_refuse(StatusCode.DATA_LOSS, "FILE_DAMAGED", "Upload it again"):
            await client.get_file("a.tar")
    await client.put_file("a.tar", make_tar(b"a" * 1000))
    assert (await client.get_file("a.tar"))[1] == make_tar(b"a" * 1000)


async def test_what_a_crash_left_between_content_and_record_is_removed(
    make_storage: Callable[..., Any], kept: Any, make_tar: Callable[..., bytes]
) -> None:
    first = await make_storage()
    await (await first.client()).put_file("a.tar", make_tar(b"a"))
    await first.stop()
    (content,) = contents(kept)
    kept.write(f"{content.rpartition('/')[0]}/{'0' * 64}", b"its record was never written")
    (first.data / "incoming" / "half").write_bytes(b"half")
    second = await make_storage()
    assert await (await second.client()).names() == ["a.tar"]
    assert contents(kept) == [content]
    assert second.incoming() == []


async def test_an_unreadable_record_costs_no_content(
    make_storage: Callable[..., Any], kept: Any, make_tar: Callable[..., bytes]
) -> None:
    first = await make_storage()
    client = await first.client()
    await client.put_file("a.tar", make_tar(b"a"))
    await client.put_file("b.tar", make_tar(b"b"))
    await first.stop()
    kept.write(next(key for key in kept.keys("spaces") if "/records/" in key), b"{rotten")
    second = await make_storage()
    assert len(await (await second.client()).names()) == 1
    assert len(contents(kept)) == 2
