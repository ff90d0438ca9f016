"""`python -m qonduit_worker.zygote.confine ORDER COMMAND...`: run a command that may write to a few folders only.

The resolver itself is trusted; what it reads and, where source distributions are allowed, what it runs is not. It
keeps the network and its user, loses every right beyond, and sees nothing of the worker's own folder.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from qonduit_worker.zygote import isolation, kernel, landlock, layout, seccomp

_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


@dataclass(frozen=True, slots=True)
class Confinement:
    """What holds the command.

    Attributes:
        parent: The process with whose end it ends.
        readable: More folders that it may read, beside the system and the interpreter; None for the whole machine.
        hidden: A folder that it sees nothing of all the same, but for what is writable.
        writable: Folders that it may write to.
        file_bytes: Size of the largest file that it may write.
        cgroups: Descriptors of `cgroup.procs` files of the groups that it joins.
    """

    parent: int
    readable: tuple[str, ...] | None
    hidden: str
    writable: tuple[str, ...]
    file_bytes: int
    cgroups: tuple[int, ...]

    def dumps(self) -> str:
        """Write it down."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Self:
        """Read what `dumps` wrote."""
        fields: dict[str, Any] = json.loads(text)
        for name in ("readable", "writable", "cgroups"):
            fields[name] = tuple(fields[name]) if fields[name] is not None else None
        return cls(**fields)


def all_but(hidden: Path) -> Iterator[str]:
    """Yield paths that together hold the whole machine except one folder."""
    for folder, inner in zip(hidden.parents, (hidden, *hidden.parents)):  # noqa: B905 - the root has no parent.
        try:
            yield from (str(path) for path in folder.iterdir() if path != inner)
        except PermissionError:
            continue


def main() -> None:
    """Put on what the first argument says, and become the command."""
    order = Confinement.loads(sys.argv[1])
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != order.parent:
        os._exit(1)  # The worker died before the line above took effect.
    isolation.join_cgroups(list(order.cgroups))
    os.umask(0o022)
    for number in (signal.SIGXFSZ, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and what is ignored stays so.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (order.file_bytes, order.file_bytes))
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if order.readable is None:
        readable = [*all_but(Path(order.hidden).resolve()), *layout.interpreter_folders()]
    else:
        readable = layout.readable_folders(order.readable)
    landlock.restrict(readable=readable, writable=(*order.writable, *_DEVICES))
    isolation.lock(seccomp.build(own_network=True))
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - there is no shell here.


if __name__ == "__main__":
    main()
