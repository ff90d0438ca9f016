"""The client inside a program: the user's files through the agent's socket, and nothing else."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from qonduit import IBMServerlessClient
from qonduit import exceptions as errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Agent:
    """Answers the file operations of the program channel from a dict."""

    def __init__(self, path: Path) -> None:
        self.files: dict[str, bytes] = {}
        self._uploads: dict[str, tuple[str, bytearray]] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                while header := stream.read(4):
                    request = msgpack.unpackb(stream.read(struct.unpack(">I", header)[0]))
                    body = msgpack.packb({"id": request["id"], **self._answer(request)})
                    stream.write(struct.pack(">I", len(body)) + body)
                    stream.flush()

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"ok": True, "value": getattr(self, request["op"])(request)}
        except KeyError as error:
            return {"ok": False, "error": {"kind": "FILE_NOT_FOUND", "text": f"There is no file {error}."}}

    def _described(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        return {
            "name": name,
            "size_bytes": len(content),
            "digest": hashlib.sha256(content).hexdigest(),
            "stored_at": 1.0,
        }

    def files_list(self, _request: dict[str, Any]) -> list[dict[str, Any]]:
        return [self._described(name) for name in sorted(self.files)]

    def file_get(self, request: dict[str, Any]) -> dict[str, Any]:
        content = self.files[request["name"]]
        piece = content[request["offset"] : request["offset"] + min(request["length"], 1000)]
        return {**self._described(request["name"]), "data": piece}

    def file_begin(self, request: dict[str, Any]) -> str:
        self._uploads["1"] = (request["name"], bytearray())
        return "1"

    def file_chunk(self, request: dict[str, Any]) -> None:
        self._uploads[request["upload"]][1].extend(request["data"])

    def file_commit(self, request: dict[str, Any]) -> None:
        name, content = self._uploads.pop(request["upload"])
        self.files[name] = bytes(content)

    def file_delete(self, request: dict[str, Any]) -> None:
        del self.files[request["name"]]


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    from qonduit.program import channel  # noqa: PLC0415 - Only this fixture needs it.

    monkeypatch.setenv("QONDUIT_AGENT_SOCKET", str(tmp_path / "agent.sock"))
    running = Agent(tmp_path / "agent.sock")
    yield running
    channel.agent().forget_connection()
    running.stop()


def test_files_go_through_the_agent_with_no_token(agent: Agent, tmp_path: Path) -> None:
    client = IBMServerlessClient(token="<YOUR_API_KEY>")
    local = tmp_path / "numbers.h5"
    local.write_bytes(bytes(2_500_000))
    client.file_upload(local)
    assert agent.files == {"numbers.h5": bytes(2_500_000)}
    assert client.files() == ["numbers.h5"]
    agent.files["small.tar"] = bytes(range(250)) * 10
    back = client.file_download("small.tar", download_location=tmp_path)
    with open(back, "rb") as file:  # noqa: PTH123 - As on the page, with the path that came back.
        assert file.read() == agent.files["small.tar"]
    client.file_delete("small.tar")
    assert client.files() == ["numbers.h5"]
    with pytest.raises(errors.StoredFileNotFoundError, match=r"small\.tar"):
        client.file_download("small.tar", download_location=tmp_path)


def test_everything_else_says_where_it_belongs(agent: Agent) -> None:
    del agent
    client = IBMServerlessClient()
    for call in (client.list, client.jobs, lambda: client.get("x"), lambda: client.run("x")):
        with pytest.raises(errors.NotAvailableError, match="Inside a program"):
            call()
