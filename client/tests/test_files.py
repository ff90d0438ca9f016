"""Files in and out: the names and meanings users know, and nothing half-written."""

from __future__ import annotations

import hashlib
import json
import os
import random
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from qonduit import exceptions as errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fake_gateway import FakeGateway
    from qonduit import ServerlessClient


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "demo.tar"
    with tarfile.open(path, "w") as file:
        file.add(Path(__file__).with_name("conftest.py"), arcname="a.py")
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


@pytest.mark.parametrize("name", ["a" * 252 + ".h5", "ä" * 125 + ".tar", "a" + "😀" * 62 + ".tar"])
def test_the_longest_names_come_back_whole_or_shortened(
    client: ServerlessClient, gateway: FakeGateway, tmp_path: Path, name: str
) -> None:
    gateway.state.files[name] = b"content"
    assert client.file_download(name, target_name=name, download_location=tmp_path) == str(tmp_path / name)
    path = Path(client.file_download(name, download_location=tmp_path))
    assert path.read_bytes() == b"content"
    start = f"downloaded_{hashlib.sha256(b'content').hexdigest()[:8]}_{name[:20]}"
    assert (path.name.startswith(start), path.suffix) == (True, Path(name).suffix)
    assert 250 < len(path.name.encode()) <= 255


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


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("x.tar.gz", "name='x.tar' in Python, or `qonduit files put x.tar.gz --name x.tar`"),
        ("x.y.tgz", "name='x.y.tar' in Python"),
        ("X.TAR", "name='X.tar' in Python"),
        ("x.hdf5", "name='x.h5' in Python"),
        ("x.tar.bz2", "`tar -cf x.tar x.tar.bz2`"),
        ("x.csv", "`tar -cf x.tar x.csv`"),
    ],
)
def test_how_to_store_a_file_whose_name_is_not_allowed_is_told(
    client: ServerlessClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, advice: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(b"content")
    with pytest.raises(errors.InvalidFileError) as caught:
        client.file_upload(name)
    assert advice in str(caught.value)


def test_a_pipe_is_refused_and_not_waited_for(client: ServerlessClient, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(errors.InvalidFileError, match="no regular file"):
        client.file_upload(tmp_path / "pipe.tar")


def test_a_local_file_that_is_missing_is_the_usual_error(client: ServerlessClient, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        client.file_upload(tmp_path / "missing.tar")


def test_an_empty_file_comes_back_empty(client: ServerlessClient, gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.state.files["x.h5"] = b""
    client.file_download("x.h5", target_name="x.h5", download_location=tmp_path)
    assert (tmp_path / "x.h5").read_bytes() == b""


def test_a_download_never_overwrites_in_silence(client: ServerlessClient, gateway: FakeGateway, tmp_path: Path) -> None:
    here = tmp_path / "x.h5"
    here.write_bytes(b"mine")
    gateway.state.files["x.h5"] = b"theirs"
    with pytest.raises(FileExistsError, match="overwrite=True"):
        client.file_download("x.h5", target_name="x.h5", download_location=tmp_path)
    assert here.read_bytes() == b"mine"
    client.file_download("x.h5", target_name="x.h5", download_location=tmp_path, overwrite=True)
    assert here.read_bytes() == b"theirs"
    # An equal one is what was asked for.
    assert client.file_download("x.h5", target_name="x.h5", download_location=tmp_path) == str(here)
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]


def test_a_file_made_while_a_download_runs_is_not_overwritten(
    client: ServerlessClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qonduit import file_space  # noqa: PLC0415 - Beside its only use.

    here = tmp_path / "x.h5"

    def download(_space: object, name: str) -> Iterator[file_space.StoredFile | bytes]:
        yield file_space.StoredFile(name, 6, hashlib.sha256(b"theirs").hexdigest())
        here.write_bytes(b"mine")
        yield b"theirs"

    monkeypatch.setattr(file_space.ServerFileSpace, "download", download)
    with pytest.raises(FileExistsError):
        client.file_download("x.h5", target_name="x.h5", download_location=tmp_path)
    assert here.read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]


def test_an_upload_goes_on_where_it_was_when_the_server_goes_away(
    client: ServerlessClient, gateway: FakeGateway, tmp_path: Path
) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(random.Random(1).randbytes(9 * 1024**2))  # noqa: S311 - No secret.
    gateway.files.cut_after = 5 * 1024**2
    client.file_upload(path)
    assert gateway.state.files["x.h5"] == path.read_bytes()
    assert gateway.files.offsets == [0, 5 * 1024**2]


def test_what_is_too_much_is_an_error_of_its_own(client: ServerlessClient, gateway: FakeGateway, tar: Path) -> None:
    gateway.files.limit_bytes = 100
    with pytest.raises(errors.QuotaExceededError, match=r"demo\.tar"):
        client.file_upload(tar)
    told = client.file_usage()
    assert (told.file_count, told.used_bytes, told.limit_bytes) == (0, 0, 100)


@pytest.mark.parametrize("refusal", ["This is no tar.", "This is no tar: " + "it begins with what no tar has. " * 20])
def test_a_refusal_is_told_once_however_long_it_is(
    client: ServerlessClient, gateway: FakeGateway, tar: Path, refusal: str
) -> None:
    gateway.files.refusal = refusal
    with pytest.raises(errors.InvalidFileError) as caught:
        client.file_upload(tar)
    assert str(caught.value) == refusal


def test_a_bar_is_shown_when_asked_for_and_not_elsewhere(
    client: ServerlessClient, tar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client.file_upload(tar)
    client.file_download("demo.tar", download_location=tmp_path)
    assert capsys.readouterr() == ("", "")
    client.file_upload(tar, progress=True)
    client.file_download("demo.tar", target_name="again.tar", download_location=tmp_path, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("demo.tar") >= 2
    assert "10.0/10.0 KiB" in err
