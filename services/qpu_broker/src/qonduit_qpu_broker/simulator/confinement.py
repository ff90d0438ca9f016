"""What the simulator's process gives up before it reads what a program wrote: files, network, signals, privileges.

Each step is taken as far as this machine allows it; none is needed for a simulation.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWIPC: Final = 0x08000000
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_MS_RDONLY: Final = 1
_MS_BIND: Final = 4096
_MS_REC_PRIVATE: Final = 16384 | 1 << 18
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION_3: Final = 0x20080522
_CAP_DAC: Final = 0b110
"""Root keeps the right to read others' files: the interpreter may be somebody else's."""
_LANDLOCK_CREATE: Final = 444
_LANDLOCK_ADD: Final = 445
_LANDLOCK_RESTRICT: Final = 446
_OPEN_FILES: Final = 256


def confine(*, memory_bytes: int, hidden: Iterable[str]) -> None:
    """Confine this process for good; it must have one thread. `hidden` are files and folders that it must not find."""
    os.umask(0o077)
    # Modules ask where it is as they are imported, and finding out takes a file.
    tempfile.tempdir = "/"
    if sys.platform == "linux" and platform.machine() in {"x86_64", "aarch64"}:
        libc = ctypes.CDLL(None, use_errno=True)
        _leave_namespaces(libc, hidden)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _drop_capabilities(libc)
        _landlock(libc)
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Pipes are no files: results still go out.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))


def _leave_namespaces(libc: ctypes.CDLL, hidden: Iterable[str]) -> None:
    """Have no network, and mounts of its own in which the broker's own files can't be seen."""
    uid, gid = os.geteuid(), os.getegid()
    flags = _CLONE_NEWNS | _CLONE_NEWNET | _CLONE_NEWIPC | (_CLONE_NEWUSER if uid else 0)
    if libc.unshare(flags) != 0:
        return
    if uid:
        with suppress(OSError):
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC_PRIVATE), None)
    for path in hidden:
        target = os.fsencode(path)
        if Path(path).is_dir() and not Path(sys.prefix).is_relative_to(path):
            libc.mount(b"tmpfs", target, b"tmpfs", ctypes.c_ulong(_MS_RDONLY), b"size=4k,mode=555")
        elif Path(path).is_file():
            libc.mount(b"/dev/null", target, None, ctypes.c_ulong(_MS_BIND), None)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    kept = _CAP_DAC if os.geteuid() == 0 else 0
    header = ctypes.create_string_buffer(struct.pack("Ii", _CAPABILITY_VERSION_3, 0), 8)
    libc.capset(header, ctypes.create_string_buffer(struct.pack("IIIIII", kept, kept, 0, 0, 0, 0), 24))


def _landlock(libc: ctypes.CDLL) -> None:
    """Let it write, make, remove and connect to nothing, and signal or look into no process but itself."""
    libc.syscall.restype = ctypes.c_long
    version = libc.syscall(ctypes.c_long(_LANDLOCK_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint(1))
    if version < 1:
        return
    last = {1: 12, 2: 13}.get(version, 14)
    changing = 1 << 1 | sum(1 << right for right in range(4, last + 1))
    network = 0b11 if version >= 4 else 0  # noqa: PLR2004 -- versions of the kernel's interface.
    scoped = 0b11 if version >= 6 else 0  # noqa: PLR2004 -- as above.
    size = 24 if scoped else 16 if network else 8
    attributes = ctypes.create_string_buffer(struct.pack("QQQ", changing, network, scoped), 24)
    ruleset = libc.syscall(ctypes.c_long(_LANDLOCK_CREATE), attributes, ctypes.c_size_t(size), ctypes.c_uint(0))
    if ruleset >= 0:
        null = os.open(os.devnull, os.O_PATH)
        # Modules open it for writing as they are imported.
        rule = ctypes.create_string_buffer(struct.pack("=Qi", changing & (1 << 1 | 1 << 14), null), 12)
        libc.syscall(ctypes.c_long(_LANDLOCK_ADD), ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint(0))
        os.close(null)
        libc.syscall(ctypes.c_long(_LANDLOCK_RESTRICT), ctypes.c_int(ruleset), ctypes.c_uint(0))
        os.close(ruleset)
