"""`python -m qonduit_worker.zygote.trial FOLDER`: set up one sandbox without a program, and print what failed.

It takes the steps that a zygote takes, so that what it finds out is what will happen.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from qonduit_worker.zygote import isolation, kernel, landlock, layout, seccomp, wire
from qonduit_worker.zygote.spawn import own_namespaces

_TMP_BYTES: Final = 1 << 20


def main() -> None:
    """Try each part in a child of its own and print one JSON object: the part, and its error or null."""
    folder = sys.argv[1]
    found = {
        "room": _in_child(lambda: _room(folder)),
        "proc": _in_child(lambda: _proc(folder)),
        "users": _in_child(_users),
        "seccomp": _in_child(_seccomp),
        "uid": None if os.getuid() == 0 else "not root",
        "others": _closed(),
        "landlock": None if landlock.abi() >= 1 else "no Landlock",
        "landlock_network": None if landlock.abi() >= landlock.ABI_NETWORK else "too old",
    }
    print(json.dumps(found))  # noqa: T201 - the answer to who started this.


def _in_child(step: Callable[[], None]) -> str | None:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = ""
        try:
            step()
        except BaseException as error:  # noqa: BLE001 - it is told to the parent.
            text = f"{error}" or type(error).__name__
        os.write(write_end, text.encode())
        os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as file:  # noqa: PTH123 - a descriptor, not a path.
        text = file.read().decode()
    os.waitpid(pid, 0)
    return text or None


def _room(folder: str) -> None:
    own_namespaces()
    error = _in_child(lambda: _enter(folder))
    if error is not None:
        raise OSError(error)


def _enter(folder: str) -> None:
    layout.enter(extra=(), hidden=())
    kernel.unshare(kernel.CLONE_NEWPID)
    error = _in_child(lambda: isolation.enter_room(_order(folder), []).close())
    if error is not None:
        raise OSError(error)


def _proc(folder: str) -> None:
    own_namespaces()
    error = _in_child(lambda: _fresh_proc(folder))
    if error is not None:
        raise OSError(error)


def _fresh_proc(folder: str) -> None:
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("proc", folder, "proc")


def _users() -> None:
    kernel.unshare(kernel.CLONE_NEWUSER)


def _seccomp() -> None:
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.load(seccomp.build(own_network=True))
    try:
        kernel.unshare(kernel.CLONE_NEWUSER)
    except PermissionError:
        return
    raise OSError("the filter has no effect")


def _closed() -> str | None:
    closed = (layout.closed_folder(Path(path)) for path in layout.interpreter_folders())
    return next((f"{folder} is closed" for folder in closed if folder is not None), None)


def _order(folder: str) -> wire.Order:
    paths = {name: str(Path(folder, name)) for name in ("job", "data", "run", "tmp")}
    return wire.Order(
        sandbox_id="trial",
        **paths,
        tmp_bytes=_TMP_BYTES,
        file_bytes=None,
        pids=1,
        uid=None,
        port=None,
        environment={},
        entry="",
        gives_way=False,
    )


if __name__ == "__main__":
    main()
