"""Landlock: which files a program may touch, and which ports, checked by the kernel under every path."""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from typing import Final

from qonduit_worker.zygote import kernel

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_VERSION_FLAG: Final = 1
_PATH_BENEATH: Final = 1
_NET_PORT: Final = 2

_EXECUTE: Final = 1 << 0
_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_MAKE_CHAR: Final = 1 << 6
_MAKE_BLOCK: Final = 1 << 11
_TRUNCATE: Final = 1 << 14
_IOCTL_DEV: Final = 1 << 15
_BIND_TCP: Final = 1 << 0
_CONNECT_TCP: Final = 1 << 1
_SCOPE_ALL: Final = 0b11

_FILE_RIGHTS: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ: Final = _EXECUTE | _READ_FILE | _READ_DIR
ABI_NETWORK: Final = 4
"""The first version that confines TCP."""
_ABI_SCOPE: Final = 6


def abi() -> int:
    """The version of Landlock that this kernel speaks; 0 when there is none."""
    try:
        return kernel.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)
    except OSError:
        return 0


def _file_rights(version: int) -> int:
    count = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
    return (1 << count) - 1


def restrict(*, readable: Iterable[str], writable: Iterable[str], port: int | None = None) -> None:
    """Confine this thread, and all it starts, for ever; needs no_new_privs. Does nothing without Landlock.

    Args:
        readable: Paths that may be read and executed, with all below them; missing ones are passed over.
        writable: The same, and written; no device nodes can be made there.
        port: The one TCP port that may be connected to, none may be bound; None leaves the network alone.

    Raises:
        OSError: The kernel refused.
    """
    version = abi()
    if version < 1:
        return
    handled = _file_rights(version)
    network = _BIND_TCP | _CONNECT_TCP if port is not None and version >= ABI_NETWORK else 0
    scoped = _SCOPE_ALL if version >= _ABI_SCOPE else 0
    size = 24 if version >= _ABI_SCOPE else 16 if version >= ABI_NETWORK else 8
    attributes = ctypes.create_string_buffer(struct.pack("QQQ", handled, network, scoped), 24)
    ruleset = kernel.syscall(_CREATE_RULESET, attributes, size, 0)
    try:
        for path in readable:
            _allow_path(ruleset, path, _READ & handled)
        for path in writable:
            _allow_path(ruleset, path, handled & ~(_MAKE_CHAR | _MAKE_BLOCK))
        if network and port is not None:
            rule = ctypes.create_string_buffer(struct.pack("QQ", _CONNECT_TCP, port), 16)
            kernel.syscall(_ADD_RULE, ruleset, _NET_PORT, rule, 0)
        kernel.syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow_path(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _FILE_RIGHTS
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, descriptor), 12)
        kernel.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)
