"""What a tree of processes uses, read from /proc, for machines where no control group counts it."""

import contextlib
import os
from pathlib import Path

from qonduit_worker.zygote.init import descendants

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def tree(roots: list[int]) -> list[int]:
    """These processes and all below them."""
    return [*roots, *(pid for root in roots for pid in descendants(root) if pid not in roots)]


def cpu_seconds(pids: list[int]) -> float:
    """CPU time of these processes and of the children they have waited for."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS_PER_S


def mem_bytes(pids: list[int], inherited_bytes: int) -> int:
    """Memory that these processes hold beyond what they share with the zygote they were forked from.

    Args:
        pids: The processes.
        inherited_bytes: Anonymous memory of the zygote.

    The sum of what each holds alone misses what they share among themselves; the largest of them less what it
    inherited does not. The greater of the two is told.
    """
    private = 0
    largest = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            private += _sum(Path(f"/proc/{pid}/smaps_rollup"), ("Private_Clean", "Private_Dirty", "Swap"))
            largest = max(largest, anonymous_bytes(pid) - inherited_bytes)
    return max(private, largest)


def anonymous_bytes(pid: int) -> int:
    """Anonymous and shared memory that a process has in use; 0 when it is gone."""
    with contextlib.suppress(OSError):
        return _sum(Path(f"/proc/{pid}/status"), ("RssAnon", "RssShmem"))
    return 0


def _sum(file: Path, names: tuple[str, ...]) -> int:
    kib = 0
    for line in file.read_text().splitlines():
        name, _, value = line.partition(":")
        if name in names:
            kib += int(value.split()[0])
    return kib * 1024
