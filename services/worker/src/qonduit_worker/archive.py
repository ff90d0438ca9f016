"""Unpacks artifacts by a check of its own: nothing lands outside the folder, nothing but files and folders."""

from __future__ import annotations

import tarfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

MOST_MEMBERS: Final = 100_000
_COPY_BYTES: Final = 1024**2
_EXECUTABLE: Final = 0o111


class BadArchiveError(Exception):
    """The archive holds what may not be unpacked; the text names it."""


def unpack(archive: Path, folder: Path, *, most_bytes: int) -> None:
    """Unpack a tar into an empty folder.

    The interpreter's own filters have had holes; members are few kinds here, and written by hand.

    Raises:
        BadArchiveError: It is no tar, or has a member that is absolute, goes outside, is a link or a device, or
            is larger than `most_bytes` with the rest.
    """
    total = 0
    try:
        with tarfile.open(archive, "r:*") as tar:
            for number, member in enumerate(tar):
                total += member.size
                if number >= MOST_MEMBERS or total > most_bytes:
                    raise BadArchiveError(
                        f"the artifact unpacks to more than {MOST_MEMBERS} files or {most_bytes} bytes"
                    )
                _unpack_member(tar, member, folder)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BadArchiveError(f"the artifact cannot be unpacked: {error}") from error


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    target = folder / _checked(member.name)
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    if not member.isreg():
        raise BadArchiveError(f"the artifact's member {member.name!r} is neither a file nor a folder")
    source = tar.extractfile(member)
    if source is None:
        raise BadArchiveError(f"the artifact's member {member.name!r} has no content")
    target.parent.mkdir(parents=True, exist_ok=True)
    # A name that comes twice replaces the first; nothing here is ever a link, so nothing is followed.
    target.unlink(missing_ok=True)
    with source, target.open("wb") as file:
        while data := source.read(_COPY_BYTES):
            file.write(data)
    if member.mode & _EXECUTABLE:
        target.chmod(0o755)


def _checked(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise BadArchiveError(f"the artifact's member {name!r} would land outside the program's folder")
    return path
