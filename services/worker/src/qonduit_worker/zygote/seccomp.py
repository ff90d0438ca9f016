"""The system calls that no program needs, refused by a seccomp filter.

A deny list: a filter that lists what is allowed breaks with every new C library, and the namespaces, Landlock
and the missing capabilities already refuse what matters. This filter takes away what they would leave open to
a hole in the kernel.
"""

import ctypes
import errno
import struct
from collections.abc import Iterator
from typing import Final

from qonduit_worker.zygote import kernel

_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT: Final = 0x40000000

# Name, number on x86_64, number on aarch64 (None: not there).
_DENIED: Final[tuple[tuple[str, int | None, int | None], ...]] = (
    ("ptrace", 101, 117),
    ("process_vm_readv", 310, 270),
    ("process_vm_writev", 311, 271),
    ("process_madvise", 440, 440),
    ("pidfd_getfd", 438, 438),
    ("kcmp", 312, 272),
    ("unshare", 272, 97),
    ("setns", 308, 268),
    ("mount", 165, 40),
    ("umount2", 166, 39),
    ("pivot_root", 155, 41),
    ("chroot", 161, 51),
    ("open_tree", 428, 428),
    ("move_mount", 429, 429),
    ("fsopen", 430, 430),
    ("fsconfig", 431, 431),
    ("fsmount", 432, 432),
    ("fspick", 433, 433),
    ("mount_setattr", 442, 442),
    ("bpf", 321, 280),
    ("keyctl", 250, 219),
    ("add_key", 248, 217),
    ("request_key", 249, 218),
    ("io_uring_setup", 425, 425),
    ("io_uring_enter", 426, 426),
    ("io_uring_register", 427, 427),
    ("userfaultfd", 323, 282),
    ("perf_event_open", 298, 241),
    ("fanotify_init", 300, 262),
    ("memfd_secret", 447, 447),
    ("kexec_load", 246, 104),
    ("kexec_file_load", 320, 294),
    ("init_module", 175, 105),
    ("finit_module", 313, 273),
    ("delete_module", 176, 106),
    ("create_module", 174, None),
    ("reboot", 169, 142),
    ("swapon", 167, 224),
    ("swapoff", 168, 225),
    ("acct", 163, 89),
    ("settimeofday", 164, 170),
    ("clock_settime", 227, 112),
    ("clock_adjtime", 305, 266),
    ("adjtimex", 159, 171),
    ("sethostname", 170, 161),
    ("setdomainname", 171, 162),
    ("quotactl", 179, 60),
    ("quotactl_fd", 443, 443),
    ("nfsservctl", 180, 42),
    ("lookup_dcookie", 212, 18),
    ("name_to_handle_at", 303, 264),
    ("open_by_handle_at", 304, 265),
    ("iopl", 172, None),
    ("ioperm", 173, None),
    ("modify_ldt", 154, None),
    ("uselib", 134, None),
    ("ustat", 136, None),
    ("sysfs", 139, None),
    ("_sysctl", 156, None),
    ("vhangup", 153, 58),
    ("syslog", 103, 116),
    ("personality", 135, 92),
    ("move_pages", 279, 239),
    ("migrate_pages", 256, 238),
)
_CLONE: Final = {"x86_64": 56, "aarch64": 220}
_CLONE3: Final = 435
_SOCKET: Final = {"x86_64": 41, "aarch64": 198}
_SENDTO: Final = {"x86_64": 44, "aarch64": 206}
_SENDMSG: Final = {"x86_64": 46, "aarch64": 211}
_SENDMMSG: Final = {"x86_64": 307, "aarch64": 269}
_NAMESPACE_FLAGS: Final = (
    kernel.CLONE_NEWTIME
    | kernel.CLONE_NEWNS
    | kernel.CLONE_NEWCGROUP
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUSER
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
)
_AF_UNIX: Final = 1
_AF_INET: Final = 2
_AF_INET6: Final = 10
_SOCK_STREAM: Final = 1
_SOCK_TYPE_MASK: Final = 0xF
_IPPROTO_TCP: Final = 6
_MSG_FASTOPEN: Final = 0x20000000

# Classic BPF: the operations used here, and the offsets into `struct seccomp_data`.
_LOAD: Final = 0x20
_AND: Final = 0x54
_EQUAL: Final = 0x15
_GREATER_EQUAL: Final = 0x35
_ANY_BIT: Final = 0x45
_RETURN: Final = 0x06
_NUMBER: Final = 0
_ARCH: Final = 4
_ARGUMENTS: Final = 16
_ALLOW: Final = 0x7FFF0000
_KILL_PROCESS: Final = 0x80000000
_ERRNO: Final = 0x00050000
_SECCOMP_MODE_FILTER: Final = 2

_Instruction = tuple[int, int, int, int]


def _refuse(number: int) -> _Instruction:
    return (_RETURN, 0, 0, _ERRNO | number)


def _argument(position: int) -> _Instruction:
    # The low half of a 64-bit argument: both machines are little-endian.
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * position)


def _when(number: int, body: list[_Instruction]) -> list[_Instruction]:
    """Run `body`, which must end by returning, when the system call is `number`."""
    return [(_EQUAL, 0, len(body), number), *body]


def _denied(arch: str) -> Iterator[_Instruction]:
    for _name, x86_64, aarch64 in _DENIED:
        number = x86_64 if arch == "x86_64" else aarch64
        if number is not None:
            yield from _when(number, [_refuse(errno.EPERM)])


def _clone(arch: str) -> Iterator[_Instruction]:
    # The flags of clone3 are in memory, where a filter cannot look: saying it does not exist makes every
    # C library fall back to clone.
    yield from _when(_CLONE3, [_refuse(errno.ENOSYS)])
    allow = (_RETURN, 0, 0, _ALLOW)
    yield from _when(_CLONE[arch], [_argument(0), (_ANY_BIT, 0, 1, _NAMESPACE_FLAGS), _refuse(errno.EPERM), allow])


def _sockets(arch: str, *, own_network: bool) -> Iterator[_Instruction]:
    allow = (_RETURN, 0, 0, _ALLOW)
    refuse = _refuse(errno.EAFNOSUPPORT)
    if own_network:
        body = [
            _argument(0),
            (_EQUAL, 3, 0, _AF_UNIX),
            (_EQUAL, 2, 0, _AF_INET),
            (_EQUAL, 1, 0, _AF_INET6),
            refuse,
            allow,
        ]
        yield from _when(_SOCKET[arch], body)
        return
    # Only plain TCP is left, because only that is what Landlock can confine to one port.
    body = [
        _argument(0),
        (_EQUAL, 7, 0, _AF_UNIX),
        (_EQUAL, 0, 7, _AF_INET),
        _argument(1),
        (_AND, 0, 0, _SOCK_TYPE_MASK),
        (_EQUAL, 0, 4, _SOCK_STREAM),
        _argument(2),
        (_EQUAL, 1, 0, 0),
        (_EQUAL, 0, 1, _IPPROTO_TCP),
        allow,
        refuse,
    ]
    yield from _when(_SOCKET[arch], body)
    # A connection made by sending passes Landlock's check on old kernels.
    for number, position in ((_SENDTO[arch], 3), (_SENDMSG[arch], 2), (_SENDMMSG[arch], 3)):
        body = [_argument(position), (_ANY_BIT, 0, 1, _MSG_FASTOPEN), _refuse(errno.EOPNOTSUPP), allow]
        yield from _when(number, body)


def build(*, own_network: bool, arch: str | None = None) -> bytes:
    """The filter as the kernel reads it.

    Args:
        own_network: The program has a network namespace of its own; without one it may only use TCP.
        arch: The instruction set; this machine's by default.

    Raises:
        KeyError: This instruction set is not known.
    """
    arch = arch or kernel.machine()
    program: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, _AUDIT_ARCH[arch]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if arch == "x86_64":
        program += [(_GREATER_EQUAL, 0, 1, _X32_BIT), _refuse(errno.ENOSYS)]
    program += [*_denied(arch), *_clone(arch), *_sockets(arch, own_network=own_network), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def load(program: bytes) -> None:
    """Put this thread, and all it starts, under a filter for ever; needs no_new_privs."""
    buffer = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer)), 16)
    kernel.prctl(kernel.PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header)
