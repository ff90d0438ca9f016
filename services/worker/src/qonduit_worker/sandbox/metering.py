"""How much one sandbox uses, from the best source this machine has."""

from qonduit_worker.sandbox import proctree
from qonduit_worker.sandbox.cgroups import Cgroup, Readings
from qonduit_worker.sandbox.model import Usage

_NOTHING = Readings(None, None, None, None)


class Meter:
    """Reads the control group of a sandbox, and /proc for what that does not count.

    Memory that no group counts is read by `look`, now and then, as that takes long.

    Args:
        cgroup: The sandbox's group; it may have no folder at all.
        inherited_bytes: Memory that each process shares with the zygote.
    """

    def __init__(self, cgroup: Cgroup, inherited_bytes: int) -> None:
        self._cgroup = cgroup
        self._holdings = proctree.Holdings(inherited_bytes)
        self._roots: list[int] = []
        self._last = Usage(0.0, 0, 0)

    def attach(self, roots: list[int]) -> None:
        """Say which processes the tree grows from."""
        self._roots = roots

    def processes(self) -> list[int]:
        """The processes of the tree now."""
        return proctree.tree(self._roots)

    def look(self) -> int:
        """Read how many bytes the processes of the tree hold now; from one thread at a time, which may be any."""
        return self._holdings.look(self.processes())

    def saw(self, mem_bytes: int) -> None:
        """Take what `look` returned."""
        self._last = Usage(self._last.cpu_seconds, mem_bytes, max(self._last.peak_mem_bytes, mem_bytes))

    def read(self) -> Usage:
        """What the tree has used until now, of memory no group counts what was seen last."""
        counted = self._counted()
        cpu_s = counted.cpu_seconds
        if cpu_s is None:
            # A process that was not waited for takes its time along; what was seen is not forgotten.
            cpu_s = max(self._last.cpu_seconds, proctree.cpu_seconds(self.processes()))
        mem = counted.mem_bytes if counted.mem_bytes is not None else self._last.mem_bytes
        peak = counted.peak_mem_bytes if counted.peak_mem_bytes is not None else max(self._last.peak_mem_bytes, mem)
        self._last = Usage(cpu_s, mem, peak)
        return self._last

    def settle(self, reported_cpu_s: float) -> Usage:
        """The final numbers, when every process is gone.

        Args:
            reported_cpu_s: What the first process counted for those it reaped, in seconds; 0 when it could not.
        """
        self._roots = []
        usage = self.read()
        if self._counted().cpu_seconds is None:
            usage = Usage(max(usage.cpu_seconds, reported_cpu_s), usage.mem_bytes, usage.peak_mem_bytes)
        self._last = usage
        return usage

    @property
    def last(self) -> Usage:
        """What was read last."""
        return self._last

    @property
    def oom_kills(self) -> int:
        """How many processes the memory limit of the kernel has killed."""
        return self._counted().oom_kills or 0

    def _counted(self) -> Readings:
        return self._cgroup.readings() if self._cgroup.folders else _NOTHING
