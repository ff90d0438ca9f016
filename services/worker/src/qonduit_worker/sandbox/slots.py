"""A user id for each sandbox of a worker that runs as root, unique on the machine while it is held."""

import os
import socket
from typing import Final

_FIRST_UID: Final = 2_100_000
_COUNT: Final = 4096
_NAME: Final = "\0qonduit-slot-{uid}"


class NoSlotError(RuntimeError):
    """Every user id for sandboxes is taken."""


class Slot:
    """One reserved user id; `release` gives it back."""

    def __init__(self, uid: int, holder: socket.socket) -> None:
        self.uid = uid
        self._holder = holder

    def release(self) -> None:
        """Let others have it."""
        self._holder.close()


def reserve() -> Slot | None:
    """Reserve a user id; None for a worker that is not root, whose sandboxes keep its own.

    The reservation is an abstract socket: no two workers on a machine can hold one name, and the kernel lets it
    go when the worker dies.

    Raises:
        NoSlotError: None is free.
    """
    if os.getuid() != 0:
        return None
    for uid in range(_FIRST_UID, _FIRST_UID + _COUNT):
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            holder.bind(_NAME.format(uid=uid))
        except OSError:
            holder.close()
            continue
        return Slot(uid, holder)
    raise NoSlotError(f"All {_COUNT} user ids for sandboxes are taken.")


def hand_over(directory: str, uid: int) -> None:
    """Give a folder, with all in it, to a user; symbolic links are changed, never followed."""
    os.lchown(directory, uid, uid)
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            os.lchown(os.path.join(folder, name), uid, uid)  # noqa: PTH118 - thousands of files at times.
