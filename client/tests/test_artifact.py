"""What is packed into an artifact, and what is refused before any call."""

from __future__ import annotations

import os
import tarfile
from typing import TYPE_CHECKING

import pytest
from qonduit.artifact import build, check_entrypoint, list_members
from qonduit.exceptions import InvalidFunctionError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    for name in ("program.py", "package/module.py", "package/data.json", "empty/.keep"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def names(folder: Path) -> list[str]:
    return [member.name for member in list_members(folder)]


def test_version_control_caches_and_environments_stay_out(folder: Path) -> None:
    before = names(folder)
    for name in (".git/config", ".venv/bin/python", "__pycache__/program.pyc", "package/old.pyc", ".DS_Store"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / "my-environment").mkdir()
    (folder / "my-environment" / "pyvenv.cfg").write_text("")
    os.mkfifo(folder / "pipe")
    assert names(folder) == before
    assert before == ["empty", "empty/.keep", "package", "package/data.json", "package/module.py", "program.py"]


def test_what_ignore_files_name_stays_out(folder: Path) -> None:
    for name in ("notes.md", "keep.md", "data/big.bin", "package/data/small.bin", "package/local.txt", "local.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    before = set(names(folder))
    (folder / ".gitignore").write_text("# a comment\n*.md\n/data/\n")
    (folder / ".qonduitignore").write_text("!keep.md\n")
    (folder / "package" / ".gitignore").write_text("/local.txt\n")
    gone = {"notes.md", "data", "data/big.bin", "package/local.txt"}
    assert set(names(folder)) == before - gone | {".gitignore", ".qonduitignore", "package/.gitignore"}


def test_an_entrypoint_that_is_ignored_is_told_why(folder: Path) -> None:
    (folder / ".qonduitignore").write_text("program.py\n")
    with pytest.raises(InvalidFunctionError, match=r"left out of the upload: by a pattern of \.gitignore"):
        check_entrypoint("program.py", folder, list_members(folder))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"!\n"], ids=["no text", "no pattern"])
def test_an_ignore_file_that_cannot_be_read_is_named(folder: Path, content: bytes) -> None:
    (folder / ".qonduitignore").write_bytes(content)
    with pytest.raises(InvalidFunctionError, match="qonduitignore"):
        list_members(folder)


def test_the_same_files_give_the_same_bytes(folder: Path) -> None:
    with build(list_members(folder)).file as first:
        content = first.read()
    os.utime(folder / "program.py", (1, 1))
    (folder / "package" / "module.py").chmod(0o600)
    with build(list_members(folder)).file as second:
        assert second.read() == content
    (folder / "program.py").write_text("changed")
    with build(list_members(folder)).file as third:
        assert third.read() != content


def test_links_are_followed_but_never_round_and_round(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text("shared")
    (folder / "linked.py").symlink_to(tmp_path / "shared.py")
    (folder / "package" / "up").symlink_to(folder)
    (folder / "broken").symlink_to(tmp_path / "nowhere")
    with build(list_members(folder)).file as packed, tarfile.open(fileobj=packed) as tar:
        linked = tar.extractfile("linked.py")
        assert linked is not None
        assert linked.read() == b"shared"
        assert all(member.isfile() or member.isdir() for member in tar)
        assert not any("up" in name or "broken" in name for name in tar.getnames())


def test_an_entrypoint_may_be_below_the_folder(folder: Path) -> None:
    members = list_members(folder)
    assert check_entrypoint("package/../package/module.py", folder, members) == "package/module.py"
    assert check_entrypoint(str(folder / "program.py"), folder, members) == "program.py"


@pytest.mark.parametrize(
    ("entrypoint", "message"),
    [
        (None, "has no entrypoint"),
        ("", "has no entrypoint"),
        ("missing.py", r"'missing.py' does not exist in working_dir .*Programs there: package/module.py, program.py"),
        ("package", "'package' is a folder"),
        ("../other.py", "outside of working_dir"),
        ("/etc/hostname", "outside of working_dir"),
    ],
)
def test_a_bad_entrypoint_says_what_is_wrong(folder: Path, entrypoint: str | None, message: str) -> None:
    with pytest.raises(InvalidFunctionError, match=message):
        check_entrypoint(entrypoint, folder, list_members(folder))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidFunctionError, match=r"nowhere' is no folder"):
        list_members(tmp_path / "nowhere")


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "secret").write_text("x")
    (folder / "secret").chmod(0)
    with pytest.raises(InvalidFunctionError, match="secret"):
        build(list_members(folder))
