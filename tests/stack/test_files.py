"""What may be stored: flat names, tar and h5, by name and by content."""

from __future__ import annotations

import hashlib
import io
import tarfile
from typing import TYPE_CHECKING

import grpc
import h5py
import pytest
from qonduit_api.v1 import files_pb2, files_pb2_grpc

if TYPE_CHECKING:
    from stack_control import Stack


def a_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    return buffer.getvalue()


def an_h5() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["numbers"] = [1, 2, 3]
    return buffer.getvalue()


def upload(stack: Stack, name: str, content: bytes) -> grpc.RpcError | None:
    header = files_pb2.UploadFileHeader(name=name, size_bytes=len(content), digest=hashlib.sha256(content).hexdigest())
    parts = [files_pb2.UploadFileRequest(header=header), files_pb2.UploadFileRequest(chunk=content)]
    token = (("authorization", f"Bearer {stack.profile['token']}"),)
    with grpc.insecure_channel(stack.profile["address"]) as channel:
        files = files_pb2_grpc.FileServiceStub(channel)
        try:
            files.UploadFile(iter(parts), metadata=token, timeout=30)
        except grpc.RpcError as error:
            return error
        files.DeleteFile(files_pb2.DeleteFileRequest(name=name), metadata=token, timeout=30)
        return None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("folder/a.tar", a_tar()),
        ("../a.tar", a_tar()),
        ("..", a_tar()),
        ("a\0b.tar", a_tar()),
        ("a" * 300 + ".tar", a_tar()),
        ("a.zip", b"PK\x03\x04 and more"),
        ("notes.tar", b"This is a text file that was given another name.\n" * 40),
        ("notes.h5", b"This is a text file that was given another name.\n" * 40),
        ("cut.tar", a_tar()[:700]),
        ("empty.tar", b""),
        ("empty.h5", b""),
        ("", a_tar()),
    ],
)
def test_refused_with_the_rule(stack: Stack, name: str, content: bytes) -> None:
    error = upload(stack, name, content)
    assert error is not None
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert any(word in error.details() for word in (".tar", ".h5", "name", "empty")), error.details()


def test_taken(stack: Stack) -> None:
    gzipped = io.BytesIO()
    with tarfile.open(fileobj=gzipped, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    for name, content in {
        "classifier_name.pkl.tar": a_tar(),
        "output.json.tar": gzipped.getvalue(),
        "numbers.h5": an_h5(),
    }.items():
        assert upload(stack, name, content) is None
