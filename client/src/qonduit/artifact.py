"""A function's folder as one tar: the same files always give the same bytes."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Final

from qonduit.exceptions import ArtifactTooLargeError, InvalidFunctionError
from qonduit.ignoring import IGNORE_FILES, Ignoring

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LEFT_OUT_FOLDERS: Final = frozenset(
    {
        ".git", ".hg", ".svn", ".venv", "__pycache__", ".ipynb_checkpoints", ".mypy_cache", ".pytest_cache",
        ".ruff_cache", ".tox", ".nox", ".idea", ".vscode", "node_modules",
    }
)  # fmt: skip
LEFT_OUT_SUFFIXES: Final = (".pyc", ".pyo", ".swp", "~")
LEFT_OUT_FILES: Final = frozenset({".DS_Store", "Thumbs.db"})
_LARGEST_SHOWN: Final = 10
_IN_MEMORY_BYTES: Final = 8 * 1024**2


@dataclass(frozen=True, slots=True)
class Member:
    """A file or folder that goes into an artifact."""

    name: str
    path: Path
    size_bytes: int
    is_folder: bool
    executable: bool


@dataclass(frozen=True, slots=True)
class Content:
    """Where a file's bytes are in an artifact."""

    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Artifact:
    """A finished tar, open for reading; it is gone when closed."""

    file: IO[bytes]
    digest: str
    size_bytes: int
    contents: tuple[Content, ...] = ()
    """Its files' bytes, in the order of the tar."""


def list_members(working_dir: Path) -> list[Member]:
    """Return what an artifact of this folder holds, by name; links are followed.

    Version control, caches and virtual environments are left out, and what `.gitignore` and `.qonduitignore` in this
    folder and those below name.

    Raises:
        InvalidFunctionError: The folder is missing, or something in it cannot be read.
    """
    if not working_dir.is_dir():
        raise InvalidFunctionError(f"working_dir {str(working_dir)!r} is no folder.")
    members = _walk(working_dir, "", (working_dir.resolve(),), Ignoring(None, working_dir, ""))
    return sorted(members, key=lambda member: member.name)


def check_entrypoint(entrypoint: str | None, working_dir: Path, members: Sequence[Member]) -> str:
    """Return the entrypoint as it is named in the artifact.

    Raises:
        InvalidFunctionError: There is none, it is missing, no file, or outside the folder.
    """
    if not entrypoint:
        raise InvalidFunctionError(
            "The function has no entrypoint: name the program to start, as in "
            'QiskitFunction(title="my-function", entrypoint="program.py", working_dir="./source_files").'
        )
    path = Path(os.path.normpath(working_dir / entrypoint))
    try:
        name = path.relative_to(os.path.normpath(working_dir)).as_posix()
    except ValueError:
        raise InvalidFunctionError(
            f"Entrypoint {entrypoint!r} is outside of working_dir {str(working_dir)!r}: "
            "only files inside of that folder are uploaded."
        ) from None
    if any(member.name == name and not member.is_folder for member in members):
        return name
    if path.is_file():
        raise InvalidFunctionError(
            f"Entrypoint {entrypoint!r} is left out of the upload: by a pattern of {' or '.join(IGNORE_FILES)}, or "
            "because it is in a folder of version control, caches or a virtual environment."
        )
    what = "is a folder" if path.is_dir() else "does not exist"
    programs = [member.name for member in members if member.name.endswith(".py")][:_LARGEST_SHOWN]
    there = f" Programs there: {', '.join(programs)}." if programs else ""
    raise InvalidFunctionError(f"Entrypoint {entrypoint!r} {what} in working_dir {str(working_dir)!r}.{there}")


def too_large(members: Sequence[Member], working_dir: Path, limit_bytes: int) -> ArtifactTooLargeError:
    """Return the error that says which files make an artifact too large."""
    total = sum(member.size_bytes for member in members)
    largest = sorted(members, key=lambda member: -member.size_bytes)[:_LARGEST_SHOWN]
    lines = [f"  {_megabytes(member.size_bytes):>10}  {member.name}" for member in largest]
    limit = f" and the server takes {_megabytes(limit_bytes)}" if limit_bytes else ", more than the server takes"
    return ArtifactTooLargeError(
        f"working_dir {str(working_dir)!r} holds {_megabytes(total)}{limit}. Move data to "
        "`file_upload`, or choose a smaller folder. The largest files are:\n" + "\n".join(lines)
    )


def build(members: Sequence[Member]) -> Artifact:
    """Write the tar; InvalidFunctionError if a file cannot be read or changes meanwhile."""
    file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115 - The caller closes it.
    try:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            contents = tuple(content for member in members if (content := _add(tar, member)) is not None)
        size = file.tell()
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        file.seek(0)
    except OSError as error:
        file.close()
        raise InvalidFunctionError(f"The function's files cannot be packed: {error}.") from error
    except BaseException:
        file.close()
        raise
    return Artifact(file, digest, size, contents)


def _walk(folder: Path, prefix: str, above: tuple[Path, ...], ignoring: Ignoring) -> Iterator[Member]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise InvalidFunctionError(f"Folder {str(folder)!r} cannot be read: {error.strerror}.") from error
    for entry in entries:
        name = str(PurePosixPath(prefix) / entry.name)
        if ignoring.leaves_out(name, is_folder=entry.is_dir()):
            continue
        if entry.is_dir():
            # A link to a folder above would go round for ever.
            real = Path(entry.path).resolve()
            if _is_left_out(Path(entry.path)) or real in above:
                continue
            yield Member(name, Path(entry.path), 0, is_folder=True, executable=False)
            yield from _walk(Path(entry.path), name, (*above, real), Ignoring(ignoring, Path(entry.path), name))
        elif entry.is_file() and entry.name not in LEFT_OUT_FILES and not entry.name.endswith(LEFT_OUT_SUFFIXES):
            status = entry.stat()
            executable = bool(status.st_mode & stat.S_IXUSR)
            yield Member(name, Path(entry.path), status.st_size, is_folder=False, executable=executable)


def _is_left_out(folder: Path) -> bool:
    return folder.name in LEFT_OUT_FOLDERS or (folder / "pyvenv.cfg").exists()


def _add(tar: tarfile.TarFile, member: Member) -> Content | None:
    """Add a member without anything that differs between two machines or moments; return where a file's bytes are."""
    entry = tarfile.TarInfo(member.name)
    if member.is_folder:
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(entry)
        return None
    entry.mode = 0o755 if member.executable else 0o644
    with member.path.open("rb") as source:
        entry.size = os.fstat(source.fileno()).st_size
        tar.addfile(entry, source)
    padded = -(-entry.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return Content(tar.offset - padded, entry.size)


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1024**2:.1f} MiB"
