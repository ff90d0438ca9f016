"""What a tree of processes uses, read from /proc, for machines where no control group counts it."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qonduit_worker.zygote.init import descendants

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_LISTS_CHILDREN: Final = Path(f"/proc/self/task/{os.getpid()}/children").exists()
"""Whether the kernel was built with CONFIG_PROC_CHILDREN, as most are; else all processes have to be looked at."""


def tree(roots: list[int]) -> list[int]:
    """These processes and all below them."""
    if not _LISTS_CHILDREN:
        return [*roots, *(pid for root in roots for pid in descendants(root) if pid not in roots)]
    found = list(roots)
    for pid in found:  # It grows meanwhile.
        found += [child for child in _children(pid) if child not in found]
    return found


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with contextlib.suppress(OSError):  # It is gone, or one of its threads is.
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - read often.
            children += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    return children


def cpu_seconds(pids: list[int]) -> float:
    """CPU time of these processes and of the children they have waited for."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            ticks += sum(map(int, _stat(pid)[11:15]))
    return ticks / _TICKS_PER_S


@dataclass(frozen=True, slots=True)
class _Held:
    """What one process holds.

    Attributes:
        as_of: Changes with each page that the process gets or gives back.
        private_bytes: What it alone holds.
        anonymous_bytes: Anonymous memory, also what it shares with the zygote.
    """

    as_of: tuple[str, ...]
    private_bytes: int
    anonymous_bytes: int


class Holdings:
    """The memory of a tree of processes, looked at again and again.

    A look at one process takes the kernel up to a millisecond, as it goes through all that is mapped. So only those are
    looked at again that had a page fault since, or another size.

    Args:
        inherited_bytes: Anonymous memory of the zygote that the processes were forked from.
    """

    def __init__(self, inherited_bytes: int) -> None:
        self._inherited_bytes = inherited_bytes
        self._known: dict[int, _Held] = {}

    def look(self, pids: list[int]) -> int:
        """Bytes that these processes hold beyond what they share with the zygote.

        The sum of what each holds alone misses what they share among themselves; the largest of them less what it
        inherited does not. The greater of the two is told.
        """
        known, self._known = self._known, {}
        for pid in pids:
            with contextlib.suppress(OSError):
                as_of = _as_of(_stat(pid))
                held = known.get(pid)
                if held is None or held.as_of != as_of:
                    held = _Held(as_of, _private_bytes(pid), anonymous_bytes(pid))
                self._known[pid] = held
        largest = max((held.anonymous_bytes for held in self._known.values()), default=0)
        return max(sum(held.private_bytes for held in self._known.values()), largest - self._inherited_bytes)


def _as_of(stat: list[str]) -> tuple[str, ...]:
    minor_faults, major_faults, started, resident = stat[7], stat[9], stat[19], stat[21]
    return started, minor_faults, major_faults, resident


def _private_bytes(pid: int) -> int:
    return _sum(f"/proc/{pid}/smaps_rollup", ("Private_Clean", "Private_Dirty", "Swap"))


def anonymous_bytes(pid: int) -> int:
    """Anonymous and shared memory that a process has in use; 0 when it is gone."""
    with contextlib.suppress(OSError):
        return _sum(f"/proc/{pid}/status", ("RssAnon", "RssShmem"))
    return 0


def _stat(pid: int) -> list[str]:
    """The fields of proc_pid_stat(5) from the third, the state, on.

    Raises:
        OSError: The process is gone.
    """
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _sum(path: str, names: tuple[str, ...]) -> int:
    kib = 0
    for line in _read(path).splitlines():
        name, _, value = line.partition(":")
        if name in names:
            kib += int(value.split()[0])
    return kib * 1024


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - read often.
        return file.read()
