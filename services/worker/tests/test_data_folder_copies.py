"""Copies into a folder that a program owns, while that program plays with the names in it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from qonduit_worker.data_folder import copy_file

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_link_in_the_place_of_a_copy_gives_nothing_else_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target, secret = tmp_path / "source", tmp_path / "target", tmp_path / "secret"
    source.write_bytes(b"bytes")
    secret.write_bytes(b"root's")
    real = os.fchown

    def link_first(descriptor: int, user: int, group: int) -> None:
        target.unlink()
        target.symlink_to(secret)
        real(descriptor, user, group)

    monkeypatch.setattr(os, "fchown", link_first)
    owner = os.stat_result((0o700, 0, 0, 1, 12345, 12345, 0, 0, 0, 0))
    told = copy_file(source, target, owner=owner)
    assert (told.st_uid, told.st_size) == (12345, 5)
    assert secret.stat().st_uid == 0


def test_a_copy_is_the_same_bytes_in_a_new_file(tmp_path: Path) -> None:
    source, target, other = tmp_path / "source", tmp_path / "target", tmp_path / "other"
    source.write_bytes(bytes(range(256)) * 5000)
    other.write_bytes(b"another's")
    target.symlink_to(other)
    copy_file(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert not target.is_symlink()
    assert other.read_bytes() == b"another's"
