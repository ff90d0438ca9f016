"""The file tree that programs see: a read-only system, the interpreter, and empty places to be filled.

It is built once by each zygote, out of bind mounts on a small tmpfs, so that folders below one that a program
may not enter (a home with mode 0700) can be reached without opening what lies around them.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from qonduit_worker.zygote import kernel

HOST: Final = "/.host"
"""Where the zygote keeps the machine's own tree; each sandbox lets go of it before a program runs."""

PROGRAM_UID: Final = 1000
JOB: Final = "/job"
DATA: Final = "/data"
TMP: Final = "/tmp"  # noqa: S108 - the sandbox's own tmpfs.
SHM: Final = "/dev/shm"  # noqa: S108 - the sandbox's own tmpfs.
RUN: Final = "/run/qonduit"
FUNCTION_DATA_NAME: Final = "function_data"
"""The folder in RUN with a provider's files, where there are any."""
FUNCTION_DATA: Final = f"/{FUNCTION_DATA_NAME}"
"""A link to it, which leads nowhere in the sandboxes of other functions: a tree that all share has one shape."""
LAYER: Final = "/environment"
"""Packages of the program's own, over those of the interpreter."""

_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC: Final = ("/etc/ld.so.cache", "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/alternatives", "/etc/mime.types")
_DEVICES: Final = ("null", "zero", "full", "random", "urandom")
_TOO_BROAD: Final = frozenset(
    ("/", "/root", "/home", "/tmp", "/var", "/var/tmp", "/etc", "/proc", "/sys", "/dev", "/run", "/opt", "/srv", "/mnt")  # noqa: S108
)
_FILES: Final = {
    "/etc/passwd": (
        "root:x:0:0:root:/root:/bin/sh\n"
        f"qonduit:x:{PROGRAM_UID}:{PROGRAM_UID}:Qonduit program:/tmp:/bin/sh\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
    "/etc/group": f"root:x:0:\nqonduit:x:{PROGRAM_UID}:\nnogroup:x:65534:\n",
    "/etc/hosts": "127.0.0.1 localhost qonduit\n::1 localhost\n",
    "/etc/hostname": "qonduit\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "/etc/resolv.conf": "",
}


def interpreter_folders(extra: Iterable[str] = ()) -> list[str]:
    """The folders and files this interpreter loads from, outermost only, without what the system folders hold.

    Those are its prefixes, its path (with what `.pth` files added) and the sources of editable installations.
    Folders that hold far more than an interpreter, such as `/root`, are left out even when the path names them.
    """
    wanted = {sys.base_prefix, sys.base_exec_prefix, sys.prefix, sys.exec_prefix, *sys.path, *_editable(), *extra}
    absolute = {str(Path(path).absolute()) for path in wanted if path}
    absolute |= {os.path.realpath(path) for path in absolute}
    too_broad = _TOO_BROAD | {str(Path.home())}
    found = {path for path in absolute if path not in too_broad and os.access(path, os.R_OK)}
    return _outermost(found - set(_SYSTEM), within=_SYSTEM)


def _editable() -> Iterator[str]:
    # The finders that editable installations register keep their sources in a mapping of module to path.
    for name, module in list(sys.modules.items()):
        mapping = getattr(module, "MAPPING", None) if name.startswith("__editable__") else None
        if isinstance(mapping, dict):
            yield from (str(path) for path in mapping.values())


def _outermost(paths: Iterable[str], *, within: Iterable[str] = ()) -> list[str]:
    kept: list[str] = []
    for path in sorted(paths):
        if not any(path == outer or path.startswith(outer + "/") for outer in (*within, *kept)):
            kept.append(path)
    return kept


def closed_folder(path: Path) -> Path | None:
    """The outermost folder on the way to `path`, or `path` itself, that other users may not enter."""
    way = [*reversed(path.parents), *([path] if path.is_dir() else [])]
    return next((folder for folder in way if not folder.stat().st_mode & 0o001), None)


def readable_folders(extra: Iterable[str] = ()) -> list[str]:
    """What a program may read of the machine where it has no tree of its own."""
    etc = ["/etc/passwd", "/etc/group", "/etc/hosts", "/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/localtime"]
    return [*_SYSTEM, *_ETC, *etc, "/etc/ssl", "/proc", "/sys/devices/system/cpu", *interpreter_folders(extra)]


def enter(*, extra: Iterable[str], hidden: Iterable[str]) -> None:
    """Build the tree and make it this process's root; needs a mount namespace of its own.

    Args:
        extra: More folders of Python sources to show.
        hidden: Folders of the machine that must look empty even where a shown folder holds them.

    Raises:
        OSError: The kernel refused a mount.
    """
    folders = interpreter_folders(extra)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    _leave_host_tree()
    new = "/new"
    # What a zygote's modules write while they load is its own; each sandbox has another tmpfs over it.
    Path(new + TMP).mkdir()
    kernel.mount("tmpfs", new + TMP, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=1777")
    for path in _SYSTEM:
        _system_folder(new, path)
    for path in (*_ETC, *folders):
        if Path(HOST + path).exists():
            show(HOST, new, path)
    for path in hidden:
        if Path(new + path).is_dir():
            kernel.mount("tmpfs", new + path, "tmpfs", kernel.MS_RDONLY, "size=0,mode=755")
    _own_files(new)
    _devices(new)
    _finish(new)


def _leave_host_tree() -> None:
    """Stand on an empty tmpfs, with the machine's tree at HOST and the future root at `/new`."""
    base = next(path for path in ("/tmp", "/var/tmp", "/mnt", "/run") if Path(path).is_dir())  # noqa: S108
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("tmpfs", base, "tmpfs", flags, "mode=755")
    Path(base, "new").mkdir()
    Path(base + HOST).mkdir()
    kernel.pivot_root(base, base + HOST)
    os.chdir("/")
    kernel.mount("tmpfs", "/new", "tmpfs", flags, "mode=755")


def _system_folder(new: str, path: str) -> None:
    original = Path(HOST + path)
    if original.is_symlink():
        Path(new + path).symlink_to(original.readlink())
    elif original.is_dir():
        show(HOST, new, path)


def show(old: str, new: str, path: str) -> None:
    """Make `path` of the tree at `old` readable in the tree at `new`, under the same name."""
    target = Path(new + path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if Path(old + path).is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    kernel.bind(old + path, str(target), read_only=True)


def _own_files(new: str) -> None:
    for path in (JOB, DATA, TMP, RUN, LAYER, "/proc", "/var", "/etc", SHM):
        Path(new + path).mkdir(parents=True, exist_ok=True)
    Path(new, "var/tmp").symlink_to(TMP)
    Path(new + FUNCTION_DATA).symlink_to(f"{RUN}/{FUNCTION_DATA_NAME}")
    for path, text in _FILES.items():
        Path(new + path).write_text(text)
    localtime = Path(HOST, "etc/localtime")
    if localtime.is_file():
        Path(new, "etc/localtime").write_bytes(localtime.read_bytes())


def _devices(new: str) -> None:
    for name in _DEVICES:
        Path(new, "dev", name).touch()
        kernel.bind(f"{HOST}/dev/{name}", f"{new}/dev/{name}", read_only=False)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        Path(new, "dev", name).symlink_to(f"/proc/self/fd{target}")


def _finish(new: str) -> None:
    try:
        kernel.mount("proc", new + "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    except PermissionError:
        # A container that hides parts of /proc lets nobody mount a fresh one; the zygote uses the machine's.
        kernel.mount(HOST + "/proc", new + "/proc", flags=kernel.MS_BIND | kernel.MS_REC)
    Path(new + HOST).mkdir()
    kernel.mount(HOST, new + HOST, flags=kernel.MS_BIND | kernel.MS_REC)
    os.chdir(new)
    kernel.pivot_root(".", ".")
    kernel.unmount(".")
    os.chdir("/")
    flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("none", "/", flags=flags)
