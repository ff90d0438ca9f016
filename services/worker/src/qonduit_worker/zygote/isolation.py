"""The steps that turn a forked child into a sandbox: namespaces, mounts, identity, and the locks on the door."""

import contextlib
import os
import resource
import socket
from pathlib import Path
from typing import Final

from qonduit_worker.zygote import kernel, landlock, layout, seccomp
from qonduit_worker.zygote.wire import Order

_NAMESPACES: Final = kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
_BEHIND_THE_AGENT: Final = 5
_OPEN_FILES: Final = 4096
_TMPFS_FILES: Final = 100_000
_WRITABLE: Final = (layout.JOB, layout.DATA, layout.TMP, layout.SHM)
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def join_cgroups(descriptors: list[int]) -> None:
    """Move this process into the cgroups whose `cgroup.procs` files are given, and close them."""
    for descriptor in descriptors:
        os.write(descriptor, b"0")
        os.close(descriptor)


def own_cgroups() -> None:
    """See the present control groups as the outermost ones."""
    kernel.unshare(kernel.CLONE_NEWCGROUP)


def enter_room(order: Order, below_tmp: list[str]) -> socket.socket:
    """Enter namespaces of its own and mount the sandbox's folders; returns the listener of its own loopback.

    The caller is the first process of its pid namespace and may administer the zygote's user namespace.

    Args:
        order: The sandbox to make.
        below_tmp: The interpreter's folders that the sandbox's own `/tmp` would hide.
    """
    kernel.unshare(_NAMESPACES)
    os.umask(0o022)
    _mount_room(order, below_tmp)
    socket.sethostname("qonduit")
    kernel.loopback_up()
    return socket.create_server(("127.0.0.1", 0), backlog=128)


def _mount_room(order: Order, below_tmp: list[str]) -> None:
    kernel.bind(layout.HOST + order.job, layout.JOB, read_only=False)
    kernel.bind(layout.HOST + order.data, layout.DATA, read_only=False)
    kernel.bind(layout.HOST + order.run, layout.RUN, read_only=True)
    if order.layer is not None:
        kernel.bind(layout.HOST + order.layer, layout.LAYER, read_only=True)
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    limits = f"size={order.tmp_bytes},nr_inodes={_TMPFS_FILES},mode=1777"
    kernel.mount("tmpfs", layout.TMP, "tmpfs", flags, limits)
    kernel.mount("tmpfs", layout.SHM, "tmpfs", flags, limits)
    for path in below_tmp:
        layout.show(layout.HOST, "", path)
    kernel.unmount(layout.HOST)
    try:
        kernel.mount("proc", "/proc", "proc", flags | kernel.MS_NOEXEC)
    except PermissionError:
        # Where no fresh /proc can be had, none at all is better than the machine's.
        kernel.mount("tmpfs", "/proc", "tmpfs", flags | kernel.MS_RDONLY, "size=0,mode=555")


def limit_resources(order: Order) -> None:
    """Set the limits that each process of the program inherits, and its place behind the agent."""
    if order.gives_way:
        os.nice(_BEHIND_THE_AGENT)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    if order.file_bytes is not None:
        _lower(resource.RLIMIT_FSIZE, order.file_bytes)
    if order.uid is not None:
        # Counted for each user, and each slot is a user.
        _lower(resource.RLIMIT_NPROC, order.pids)


def _lower(limit: int, value: int) -> None:
    hard = resource.getrlimit(limit)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(limit, (value, value))


def become(uid: int | None) -> None:
    """Take the identity of a slot; None keeps the present one."""
    if uid is None:
        return
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def own_users() -> None:
    """Enter a user namespace in which this user is `PROGRAM_UID` and nobody else exists, nor can be made.

    Does nothing where the kernel does not allow it: what follows takes away all rights in any case. The process
    must be dumpable, or its files in /proc are not its own.
    """
    uid, gid = os.getuid(), os.getgid()
    if not Path("/proc/self/uid_map").exists():
        return
    try:
        kernel.unshare(kernel.CLONE_NEWUSER)
    except OSError:
        return
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{layout.PROGRAM_UID} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{layout.PROGRAM_UID} {gid} 1")
    with contextlib.suppress(OSError):
        Path("/proc/sys/user/max_user_namespaces").write_text("0")


def lock(filter_program: bytes) -> None:
    """Give up every capability and put the system-call filter on, for this process and all it starts."""
    kernel.drop_capabilities()
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.load(filter_program)


def restrict_room_files() -> None:
    """Landlock inside a room of its own: everything there may be read, its own folders written."""
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    landlock.restrict(readable=("/",), writable=(*_WRITABLE, *_DEVICES, "/proc"))


def restrict_host_files(order: Order, readable: list[str]) -> None:
    """Landlock on the machine's own tree: its own folders, its layer, the interpreter, and one TCP port."""
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    writable = (order.job, order.data, order.tmp, *_DEVICES)
    layer = [order.layer] if order.layer is not None else []
    landlock.restrict(readable=[*readable, order.run, *layer], writable=writable, port=order.port)
