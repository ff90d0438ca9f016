"""Unpacks a tar from somebody else, with a check of its own.

`tarfile`'s own filters are missing from older Pythons and were bypassed in others (CVE-2025-4517 and its kin, by links
whose targets only become dangerous once others are unpacked). Here no link is made at all, so that nothing can.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, TYPE_CHECKING, Final

from qonduit.exceptions import UnsafeArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

_COPY_BYTES: Final = 1024**2
_MOST_BYTES: Final = 64 * 1024**3
_OPEN_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def extract(
    archive: str | PathLike[str], folder: str | PathLike[str] = ".", *, most_bytes: int = _MOST_BYTES
) -> list[Path]:
    """Unpack a tar, compressed or not, and return the files' paths.

    All of it is checked before anything is written. Of permissions only the right to execute is kept.

    Args:
        archive: A local tar.
        folder: Where to; made if missing. What is there already is never replaced.
        most_bytes: Most that all members together may have.

    Raises:
        UnsafeArchiveError: A member is a link or a device, would lie outside of the folder or in the way of another
            one, or is one too many bytes. Nothing was written.
        FileExistsError: Something of a member's name is there. Nothing was written, unless it came meanwhile.
        tarfile.ReadError: It is no tar, or damaged. Nothing was written.
    """
    root = Path(folder)
    written: list[Path] = []
    with _damage_told(archive), tarfile.open(archive) as tar:
        checked = list(_checked(tar, root, most_bytes))
        _read_to_the_end(tar, most_bytes)
        for member, path in checked:
            if member.isdir():
                _make_folder(root, path)
            else:
                _write(tar, member, root, path)
                written.append(path)
    return written


@contextlib.contextmanager
def _damage_told(archive: str | PathLike[str]) -> Iterator[None]:
    """Turn what decompressors raise, each something else, into a ReadError."""
    try:
        yield
    except Exception as error:
        if not _is_of_decompressor(error):
            raise
        raise tarfile.ReadError(f"{os.fspath(archive)} is damaged or cut off ({error}).") from error


def _is_of_decompressor(error: Exception) -> bool:
    if isinstance(error, OSError):
        # Those of the system have a number; gzip's and bz2's have none.
        return error.errno is None
    # By name, as not every Python has their modules.
    return isinstance(error, EOFError | zlib.error) or type(error).__name__ in {"LZMAError", "ZstdError"}


def _read_to_the_end(tar: tarfile.TarFile, most_bytes: int) -> None:
    """Read what is behind the last member: the checksum of what is compressed is at its end.

    `tarfile` takes a header that is damaged for the end.
    """
    file = tar.fileobj
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"What is at byte {tar.offset:,} of the tar is no member's header: the tar is damaged.")
    rest = 0
    while piece := file.read(_COPY_BYTES):
        rest += len(piece)
        if rest > most_bytes + _COPY_BYTES:
            raise UnsafeArchiveError(f"More than {most_bytes:,} bytes are behind the members, which is the limit.")


def _checked(tar: tarfile.TarFile, root: Path, most_bytes: int) -> Iterator[tuple[tarfile.TarInfo, Path]]:
    seen: dict[PurePosixPath, bool] = {}
    total = 0
    for member in tar:
        name = _inside(member.name)
        if not name.parts and not member.isdir():
            raise UnsafeArchiveError(f"A member has the name {member.name!r}, which is the folder itself.")
        if not (member.isdir() or (member.isreg() and not member.issparse())):
            kind = "a link" if member.islnk() or member.issym() else "neither a file nor a folder"
            raise UnsafeArchiveError(f"{member.name!r} is {kind}; only files and folders are unpacked.")
        if any(not seen.get(parent, True) for parent in name.parents) or (name in seen and not member.isdir()):
            raise UnsafeArchiveError(f"{member.name!r} is in the way of another member, or there twice.")
        if name in seen and not seen[name]:
            raise UnsafeArchiveError(f"{member.name!r} is there twice.")
        seen.update(dict.fromkeys(name.parents, True))
        seen[name] = member.isdir()
        total += member.size
        if total > most_bytes:
            raise UnsafeArchiveError(f"The members have more than {most_bytes:,} bytes together, which is the limit.")
        path = root.joinpath(*name.parts)
        if not member.isdir() and os.path.lexists(path):
            raise FileExistsError(17, "is there already; choose another folder", str(path))
        yield member, path


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    windows = PureWindowsPath(name)
    if path.is_absolute() or windows.drive or windows.root or ".." in path.parts or ".." in windows.parts:
        raise UnsafeArchiveError(f"{name!r} would lie outside of the folder that it is unpacked into.")
    return path


def _make_folder(root: Path, path: Path) -> None:
    """Make a folder and those above it, none of which may be a link below the root: it could lead anywhere."""
    root.mkdir(parents=True, exist_ok=True)
    below = path.relative_to(root)
    for folder in (*(root / parent for parent in reversed(below.parents)), path):
        if folder == root:
            continue
        folder.mkdir(exist_ok=True)
        if folder.is_symlink():
            raise UnsafeArchiveError(f"{folder} is a link, and nothing is unpacked through links.")


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path, path: Path) -> None:
    _make_folder(root, path.parent)
    source: IO[bytes] | None = tar.extractfile(member)
    if source is None:
        raise UnsafeArchiveError(f"{member.name!r} is no file.")
    mode = 0o777 if member.mode & 0o100 else 0o666
    with source, os.fdopen(os.open(path, _OPEN_NEW, mode), "wb") as target:
        shutil.copyfileobj(source, target, _COPY_BYTES)
        if target.tell() != member.size:
            raise tarfile.ReadError(
                f"{member.name!r} has {target.tell():,} of {member.size:,} bytes: the tar is cut off"
            )
