"""Files in and out: the names and meanings users know, and nothing half-written."""

from __future__ import annotations

import hashlib
import json
import tarfile
from typing import TYPE_CHECKING

import pytest
from qonduit import exceptions as errors

if TYPE_CHECKING:
    from pathlib import Path

    from fake_gateway import FakeGateway
    from qonduit import ServerlessClient


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "demo.tar"
    with tarfile.open(path, "w") as file:
        file.add(__file__, arcname="a.py")
    return path


def test_a_tar_goes_in_and_comes_back(
    client: ServerlessClient, tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = client.file_upload(file=str(tar), function=None)
    assert json.loads(message) == {"message": "/data/demo.tar"}
    assert client.files() == ["demo.tar"]
    downloaded = client.file_download("demo.tar")
    with tarfile.open(downloaded) as file:
        assert file.getnames() == ["a.py"]
    assert client.file_download("demo.tar", target_name="b.tar", download_location="sub") == "sub/b.tar"
    assert client.file_delete("demo.tar") == "Requested file was deleted."
    assert client.files() == []


def test_a_download_under_its_default_name_replaces_nothing_but_itself(
    client: ServerlessClient, gateway: FakeGateway, tmp_path: Path
) -> None:
    paths = []
    for content in (b"one", b"one", b"two"):
        gateway.state.files["x.h5"] = content
        paths.append(client.file_download("x.h5", download_location=tmp_path))
    assert paths[0] == paths[1] != paths[2]
    assert sorted(path.read_bytes() for path in tmp_path.glob("downloaded_*_x.h5")) == [b"one", b"two"]


def test_a_download_goes_on_where_it_was_when_the_server_goes_away(
    client: ServerlessClient, gateway: FakeGateway, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 40
    gateway.state.files["x.h5"] = content
    gateway.files.cut_after = 5000
    path = tmp_path / "x.h5"
    client.file_download("x.h5", target_name="x.h5", download_location=tmp_path)
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(content).digest()
    assert gateway.files.cut_after is None


def test_a_damaged_download_leaves_nothing_behind(
    client: ServerlessClient, gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qonduit import file_space  # noqa: PLC0415 - Beside its only use.

    gateway.state.files["x.h5"] = b"content"
    monkeypatch.setattr(file_space.ServerFileSpace, "download", lambda _self, name: _damaged(name))
    with pytest.raises(errors.TransferDamagedError, match="arrived damaged"):
        client.file_download("x.h5", target_name="x.h5", download_location=tmp_path / "here")
    assert list((tmp_path / "here").iterdir()) == []


def _damaged(name: str):  # type: ignore[no-untyped-def] # noqa: ANN202 - A generator of what a download yields.
    from qonduit.file_space import StoredFile  # noqa: PLC0415 - As above.

    yield StoredFile(name, 7, hashlib.sha256(b"content").hexdigest())
    yield b"c0ntent"


@pytest.mark.parametrize(("name", "message"), [("a.zip", "neither a .tar nor an .h5"), ("folder", "is a folder")])
def test_what_cannot_be_stored_is_said_before_any_call(
    client: ServerlessClient, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(errors.InvalidFileError, match=message):
        client.file_upload(tmp_path / name)


def test_a_local_file_that_is_missing_is_the_usual_error(client: ServerlessClient, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        client.file_upload(tmp_path / "missing.tar")


def test_an_empty_file_comes_back_empty(client: ServerlessClient, gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.state.files["x.h5"] = b""
    client.file_download("x.h5", target_name="x.h5", download_location=tmp_path)
    assert (tmp_path / "x.h5").read_bytes() == b""
