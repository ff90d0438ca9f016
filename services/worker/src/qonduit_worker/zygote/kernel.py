"""Linux calls that Python 3.11 has no function for, through the C library; each raises OSError."""

import contextlib
import ctypes
import fcntl
import os
import platform
import socket
import struct
import sys
from typing import IO, Any, Final

CLONE_NEWTIME: Final = 0x00000080
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_SECCOMP: Final = 22
PR_CAPBSET_DROP: Final = 24
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000
_MOUNT_ATTR_RDONLY: Final = 0x1
_MOUNT_ATTR_NOSUID: Final = 0x2
_SYS_MOUNT_SETATTR: Final = 442
_SYS_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 0x1
_CAPABILITY_VERSION_3: Final = 0x20080522
_HIGHEST_CAPABILITY: Final = 63
_MADV_COLLAPSE: Final = 25
_HUGE_PAGE: Final = 2 * 1024 * 1024
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_PAGEMAP_ENTRY: Final = 8
_DENSE: Final = 0.75
_MAP_FIELDS: Final = 5

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def machine() -> str:
    """The name of this machine's instruction set as the kernel says it: `x86_64`, `aarch64`."""
    return platform.machine()


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(number: int, *arguments: Any) -> int:
    """Make a system call by number; integers are passed as 64 bits."""
    converted = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *converted), f"system call {number}")


def prctl(option: int, *arguments: Any) -> int:
    """Change an attribute of this process."""
    converted: list[Any] = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    converted += [ctypes.c_ulong(0)] * (4 - len(converted))
    return _checked(_libc.prctl(option, *converted), f"prctl {option}")


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags` for new ones."""
    _checked(_libc.unshare(flags), f"unshare {flags:#x}")


def setns(descriptor: int, flags: int) -> None:
    """Enter a namespace given by its descriptor."""
    _checked(_libc.setns(descriptor, flags), f"setns {flags:#x}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Attach a file system."""
    result = _libc.mount(
        os.fsencode(source), os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags), data.encode() or None
    )
    _checked(result, f"mount {source} on {target}")


def unmount(target: str, flags: int = MNT_DETACH) -> None:
    """Take a mount away from the tree; by default it is gone once nobody uses it."""
    _checked(_libc.umount2(os.fsencode(target), flags), f"unmount {target}")


def bind(source: str, target: str, *, read_only: bool) -> None:
    """Show `source`, with what is mounted below it, at `target`; set-user-id programs have no effect there."""
    mount(source, target, flags=MS_BIND | MS_REC)
    flags = _MOUNT_ATTR_NOSUID | (_MOUNT_ATTR_RDONLY if read_only else 0)
    attributes = ctypes.create_string_buffer(struct.pack("QQQQ", flags, 0, 0, 0), 32)
    try:
        syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(target), _AT_RECURSIVE, attributes, 32)
    except OSError:
        # Kernels before 5.12 have no mount_setattr: only the top mount can be changed in one call there.
        mount("none", target, flags=MS_REMOUNT | MS_BIND | MS_NOSUID | (MS_RDONLY if read_only else 0))


def pivot_root(new_root: str, put_old: str) -> None:
    """Make another mount this namespace's root."""
    syscall(_SYS_PIVOT_ROOT[machine()], os.fsencode(new_root), os.fsencode(put_old))


def loopback_up() -> None:
    """Bring up the loopback interface of this network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack_from("H", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def tidy_memory() -> None:
    """Give back what is free, and put the rest into huge pages: each fork then has far fewer pages to copy.

    Only an optimisation: kernels before 6.1 refuse huge pages, and not every C library gives back.
    """
    with contextlib.suppress(AttributeError):
        _libc.malloc_trim(0)
    with contextlib.suppress(OSError), open("/proc/self/pagemap", "rb", buffering=0) as pages:  # noqa: PTH123
        for begin, end in _writable_ranges():
            for address in range(-(-begin // _HUGE_PAGE) * _HUGE_PAGE, end // _HUGE_PAGE * _HUGE_PAGE, _HUGE_PAGE):
                if _is_dense(pages, address):
                    _libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(_HUGE_PAGE), _MADV_COLLAPSE)


def _writable_ranges() -> list[tuple[int, int]]:
    with open("/proc/self/maps", encoding="ascii") as file:  # noqa: PTH123
        lines = [line.split() for line in file]
    anonymous = [fields for fields in lines if len(fields) <= _MAP_FIELDS or fields[_MAP_FIELDS] == "[heap]"]
    ranges = [fields[0].split("-") for fields in anonymous if "w" in fields[1]]
    return [(int(begin, 16), int(end, 16)) for begin, end in ranges]


def _is_dense(pages: IO[bytes], address: int) -> bool:
    """Whether so much of a huge page is in use that filling its holes is worth the memory."""
    pages.seek(address // _PAGE * _PAGEMAP_ENTRY)
    entries = pages.read(_HUGE_PAGE // _PAGE * _PAGEMAP_ENTRY)
    # The highest bit of an entry, whose bytes are in the machine's order, says that the page is there.
    highest = entries[_PAGEMAP_ENTRY - 1 :: _PAGEMAP_ENTRY] if sys.byteorder == "little" else entries[::_PAGEMAP_ENTRY]
    return sum(byte >> 7 for byte in highest) >= _DENSE * (_HUGE_PAGE // _PAGE)


def drop_capabilities() -> None:
    """Empty every capability set of this process, the bounding and ambient ones included.

    A process that never had the right to shrink its bounding set keeps that set; with no_new_privs it
    gives nothing.
    """
    for capability in range(_HIGHEST_CAPABILITY + 1):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            break  # Past the last capability of this kernel, or not allowed.
    with contextlib.suppress(OSError):
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = ctypes.create_string_buffer(struct.pack("Ii", _CAPABILITY_VERSION_3, 0), 8)
    empty = ctypes.create_string_buffer(24)
    _checked(_libc.capset(header, empty), "capset")
