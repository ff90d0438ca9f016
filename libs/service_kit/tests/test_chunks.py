"""Chunks as they are on the wire: the same to protobuf and to us."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from hypothesis import example, given
from hypothesis import strategies as st
from qonduit_api.internal.v1 import storage_pb2 as pb
from qonduit_service_kit.chunks import ChunkCodec

UPLOADS = [pb.PutBlobRequest, pb.PutFileRequest]
DOWNLOADS = [pb.GetBlobResponse, pb.GetFileResponse]
SIZES = [0, 1, 127, 128, 16_383, 16_384, 1024**2, 2_097_151, 2_097_152, 4 * 1024**2]


def message_of(chunk: bytes) -> bytes:
    return pb.PutFileRequest(chunk=chunk).SerializeToString()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", UPLOADS)
def test_a_chunk_that_protobuf_wrote_is_read(kind: Any, size: int) -> None:
    chunk = bytes(range(256)) * (size // 256 + 1)
    found = ChunkCodec(kind).read(kind(chunk=chunk[:size]).SerializeToString())
    assert isinstance(found, memoryview)
    assert found == chunk[:size]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", DOWNLOADS)
def test_protobuf_reads_a_chunk_that_was_written(kind: Any, size: int) -> None:
    chunk = bytes(range(256)) * (size // 256 + 1)
    assert kind.FromString(ChunkCodec(kind).write(chunk[:size])) == kind(chunk=chunk[:size])


def test_messages_that_hold_another_part_stay_messages() -> None:
    header = pb.PutFileRequest(header=pb.PutFileHeader(space="users/ada", name="a.tar"))
    assert ChunkCodec(pb.PutFileRequest).read(header.SerializeToString()) == header
    assert ChunkCodec(pb.PutFileRequest).read(b"") == pb.PutFileRequest()
    answer = pb.GetFileResponse(file=pb.SpaceFile(name="a.tar"))
    assert ChunkCodec(pb.GetFileResponse).write(answer) == answer.SerializeToString()


@pytest.mark.parametrize("kind", UPLOADS + DOWNLOADS)
def test_a_chunk_is_one_whatever_a_newer_version_sends_beside_it(kind: Any) -> None:
    newer = b"\x7a\x03new"  # Field 15.
    for data in (kind(chunk=b"abc").SerializeToString() + newer, newer + kind(chunk=b"abc").SerializeToString()):
        assert ChunkCodec(kind).read(data) == memoryview(b"abc")


def test_no_chunk_is_an_empty_one_where_a_message_holds_nothing_else() -> None:
    assert ChunkCodec(pb.GetBlobResponse).read(b"") == memoryview(b"")


def test_only_fields_with_short_tags_can_be_chunks() -> None:
    file = FileDescriptorProto(name="far.proto", syntax="proto3")
    file.message_type.add(name="Far").field.add(name="chunk", number=16, type=FieldDescriptorProto.TYPE_BYTES)
    pool = DescriptorPool()
    pool.Add(file)
    with pytest.raises(ValueError, match="Far"):
        ChunkCodec(GetMessageClass(pool.FindMessageTypeByName("Far")))


@pytest.mark.parametrize("size", SIZES[2:])
def test_a_chunk_goes_on_as_the_message_that_it_came_in(size: int) -> None:
    came = message_of(b"\xff" * size)
    assert ChunkCodec(pb.PutBlobRequest).write(ChunkCodec(pb.PutFileRequest).read(came)) is came


def test_a_chunk_goes_on_where_it_has_another_number() -> None:
    came = ChunkCodec(pb.PutFileRequest).read(message_of(b"abc"))
    assert pb.GetBlobResponse.FromString(ChunkCodec(pb.GetBlobResponse).write(came)).chunk == b"abc"


@given(
    st.binary(max_size=200)
    | st.binary(max_size=200).map(lambda chunk: pb.PutFileRequest(chunk=chunk).SerializeToString()),
    st.integers(0, 200),
    st.integers(0, 200),
)
@example(b"\x12\x01x", 0, 1)
def test_any_view_of_any_bytes_is_sent_as_it_is(data: bytes, start: int, size: int) -> None:
    view = memoryview(data)[start : start + size]
    assert pb.PutFileRequest.FromString(ChunkCodec(pb.PutFileRequest).write(view)).chunk == bytes(view)


@given(
    st.lists(st.builds(message_of, st.binary(max_size=300))) | st.lists(st.binary(max_size=8)),
    st.binary(max_size=3),
)
def test_whatever_comes_is_what_protobuf_takes_it_for(parts: list[bytes], rest: bytes) -> None:
    data = b"".join(parts) + rest
    try:
        expected = pb.PutFileRequest.FromString(data)
    except DecodeError:
        with pytest.raises(DecodeError):
            ChunkCodec(pb.PutFileRequest).read(data)
        return
    found = ChunkCodec(pb.PutFileRequest).read(data)
    if isinstance(found, memoryview):
        assert (expected.WhichOneof("part"), expected.chunk) == ("chunk", bytes(found))
    else:
        assert found == expected
