"""The namespaces in which a zygote itself lives."""

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
