"""The namespaces in which zygotes themselves live."""

import os

from qonduit_worker.zygote import kernel


def own_namespaces() -> None:
    """Enter a mount namespace of its own, and a pid namespace for the children.

    An ordinary user gets both inside a user namespace. The zygote becomes the first process of that pid
    namespace, so that nothing forked from it survives it.

    Raises:
        OSError: This machine does not allow it.
    """
    flags = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        kernel.unshare(flags)
        return
    kernel.unshare(flags | kernel.CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123 - a write to the kernel.
            file.write(text)


def fork_within() -> int:
    """Fork a zygote from a zygote; in tier A it is the first process of a pid namespace of its own.

    Returns:
        The child's pid; 0 in the child.

    Raises:
        OSError: The kernel refused.
    """
    home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    pid = -1
    try:
        kernel.unshare(kernel.CLONE_NEWPID)
        try:
            pid = os.fork()
        finally:
            if pid != 0:
                kernel.setns(home, kernel.CLONE_NEWPID)
    finally:
        os.close(home)
    return pid
