"""`as_other.py UID COMMAND...`: run a command as another user, where the interpreter can be read by everyone.

An interpreter below a home with mode 0700 is shown again, in a mount namespace of its own, below folders that
anyone may enter.
"""

import os
import sys
from pathlib import Path

from qonduit_worker.zygote import kernel, layout


def open_up(folder: Path, inside: list[Path]) -> None:
    kept = {path: os.open(path, os.O_PATH) for path in inside}
    kernel.mount("tmpfs", str(folder), "tmpfs", 0, "mode=755")
    for path, descriptor in kept.items():
        path.mkdir(parents=True)
        kernel.mount(f"/proc/self/fd/{descriptor}", str(path), flags=kernel.MS_BIND | kernel.MS_REC)


def main() -> None:
    uid = int(sys.argv[1])
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    closed: dict[Path, list[Path]] = {}
    for path in map(Path, layout.interpreter_folders([str(Path(__file__).parent)])):
        folder = layout.closed_folder(path)
        if folder is not None:
            closed.setdefault(folder, []).append(path)
    for folder, inside in closed.items():
        open_up(folder, inside)
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - becoming that command is the point.


if __name__ == "__main__":
    main()
