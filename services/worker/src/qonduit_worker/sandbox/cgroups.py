"""Control groups: the only module that knows their files. Version 1, version 2, and both side by side.

Everything lives below the agent's own group, in one folder for each state directory, so that two workers on
one machine do not meet and a later incarnation finds what an earlier one left.
"""

import contextlib
import errno
import hashlib
import json
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from qonduit_worker.sandbox.model import Limits

CgroupMode = Literal["v1", "v2", "hybrid", "none"]

_CONTROLLERS: Final = ("cpu", "memory", "pids")
_V1_WANTED: Final = ("cpu", "cpuacct", "memory", "pids")
_V1_SHARES: Final = 1024
_V2_WEIGHT: Final = 100
_REMOVE_TRIES: Final = 200
_REMOVE_PAUSE_S: Final = 0.005
_RECORD: Final = "cgroups.json"


@dataclass(frozen=True, slots=True)
class Readings:
    """What the kernel has counted for one group; None where no controller counts it."""

    cpu_seconds: float | None
    mem_bytes: int | None
    peak_mem_bytes: int | None
    oom_kills: int | None


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """The agent's own group in each hierarchy that it may make groups in.

    Attributes:
        v1: Folder for each version 1 controller.
        v2: Folder in the unified hierarchy, if groups are made there.
        v2_controllers: The controllers that groups made there will have.
        both: Version 2 is there beside version 1, in use or not.
    """

    v1: dict[str, Path] = field(default_factory=dict)
    v2: Path | None = None
    v2_controllers: frozenset[str] = frozenset()
    both: bool = False

    @property
    def mode(self) -> CgroupMode:
        """Which versions there are to work with."""
        if self.v1:
            return "hybrid" if self.both else "v1"
        return "none" if self.v2 is None else "v2"

    def has(self, controller: str) -> bool:
        """Whether groups made here are governed by `controller`."""
        return controller in self.v1 or controller in self.v2_controllers


def find() -> Hierarchies:
    """Look for the hierarchies in which this process may make groups of its own."""
    mounts = _mounts()
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, names, path = line.split(":", 2)
        if number == "0" and "" in mounts:
            v2 = _own(mounts[""], path)
        for name in names.split(","):
            if name in _V1_WANTED and name in mounts:
                folder = _own(mounts[name], path)
                if _may_create(folder):
                    v1[name] = folder
    controllers = _delegated(v2) if v2 is not None and _may_create(v2) else frozenset()
    if v2 is None or not _may_create(v2) or (v1 and not controllers):
        # Beside version 1 the unified hierarchy often governs nothing, and each group joined costs time.
        return Hierarchies(v1, both=v2 is not None)
    return Hierarchies(v1, v2, controllers, both=True)


def _mounts() -> dict[str, tuple[Path, str]]:
    """For each controller (version 2 under ``): where it is mounted, and which group that mount shows."""
    found: dict[str, tuple[Path, str]] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _source, options = after.split(" ", 2)
        root, point = before.split(" ")[3:5]
        if kind == "cgroup2":
            found.setdefault("", (Path(point), root))
        elif kind == "cgroup":
            for name in options.split(","):
                found.setdefault(name, (Path(point), root))
    return found


def _own(mount: tuple[Path, str], path: str) -> Path:
    point, root = mount
    if root != "/" and (path == root or path.startswith(root.rstrip("/") + "/")):
        path = path[len(root) :]
    folder = point / path.lstrip("/")
    return folder if ".." not in folder.parts and folder.is_dir() else point


def _may_create(folder: Path) -> bool:
    return os.access(folder, os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK)


def _delegated(folder: Path) -> frozenset[str]:
    """Hand the controllers on to groups below `folder`; says which ones are."""
    control = folder / "cgroup.subtree_control"
    wanted = [name for name in _CONTROLLERS if name in _words(folder / "cgroup.controllers")]
    if any(name not in _words(control) for name in wanted):
        _leave_to_leaf(folder)
    for name in wanted:
        with contextlib.suppress(OSError):
            control.write_text(f"+{name}")
    return frozenset(_words(control)) & set(_CONTROLLERS)


def _leave_to_leaf(folder: Path) -> None:
    """Move this worker out of its own group, which may not hold processes once it hands controllers on.

    Only a group that holds nothing but this process and its children is rearranged.
    """
    pids = {int(word) for word in _words(folder / "cgroup.procs")}
    parents = {pid: _parent(pid) for pid in pids}
    if any(pid != os.getpid() and parents[pid] not in pids for pid in pids):
        return
    with contextlib.suppress(OSError):
        leaf = folder / "qonduit-worker"
        leaf.mkdir(exist_ok=True)
        for pid in pids:
            (leaf / "cgroup.procs").write_text(str(pid))


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _words(file: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return file.read_text().split()
    return []


class Cgroup:
    """The groups of one sandbox, one in each hierarchy."""

    def __init__(self, v1: dict[str, Path], v2: Path | None) -> None:
        self._v1 = v1
        self._v2 = v2

    @property
    def folders(self) -> list[Path]:
        """All folders of this group."""
        return [*dict.fromkeys(self._v1.values()), *([self._v2] if self._v2 else [])]

    def create(self, limits: Limits) -> None:
        """Make the folders and write the limits.

        Raises:
            OSError: The kernel refused.
        """
        for folder in self.folders:
            folder.mkdir()
        self.apply(limits)

    def apply(self, limits: Limits) -> None:
        """Write the limits of a group that is there.

        Raises:
            OSError: The kernel refused.
        """
        for name, value in _v1_limits(limits):
            controller, _, _rest = name.partition(".")
            if controller in self._v1:
                _write(self._v1[controller] / name, value)
        if self._v2 is not None:
            for name, value in _v2_limits(limits):
                _write(self._v2 / name, value)

    def hand_on(self, controllers: Iterable[str]) -> None:
        """Let groups below this one be governed by these version 2 controllers.

        Raises:
            OSError: The kernel refused.
        """
        if self._v2 is not None:
            for name in controllers:
                (self._v2 / "cgroup.subtree_control").write_text(f"+{name}")

    def below(self, name: str) -> "Cgroup":
        """A group inside this one, not made yet."""
        v1 = {controller: folder / name for controller, folder in self._v1.items()}
        return Cgroup(v1, self._v2 / name if self._v2 is not None else None)

    def open_procs(self) -> list[int]:
        """Descriptors through which a process puts itself into this group by writing `0`; the caller closes them."""
        return [os.open(folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) for folder in self.folders]

    def readings(self) -> Readings:
        """Read what the kernel has counted."""
        return Readings(self._cpu_seconds(), self._number("usage"), self._number("peak"), self._oom_kills())

    def _cpu_seconds(self) -> float | None:
        if "cpuacct" in self._v1:
            return int((self._v1["cpuacct"] / "cpuacct.usage").read_text()) / 1e9
        if self._v2 is not None:
            usage = _table(self._v2 / "cpu.stat").get("usage_usec")
            return None if usage is None else usage / 1e6
        return None

    def _number(self, what: Literal["usage", "peak"]) -> int | None:
        names = {"usage": ("usage_in_bytes", "current"), "peak": ("max_usage_in_bytes", "peak")}[what]
        folder = self._v1.get("memory")
        file = folder / f"memory.{names[0]}" if folder else self._v2 / f"memory.{names[1]}" if self._v2 else None
        words = _words(file) if file else []
        return int(words[0]) if words else None

    def _oom_kills(self) -> int | None:
        if "memory" in self._v1:
            return _table(self._v1["memory"] / "memory.oom_control").get("oom_kill")
        if self._v2 is not None:
            return _table(self._v2 / "memory.events").get("oom_kill")
        return None

    def kill(self) -> None:
        """Kill every process in the group."""
        if self._v2 is not None and (self._v2 / "cgroup.kill").exists():
            _write(self._v2 / "cgroup.kill", "1")
            return
        for folder in self.folders[:1]:
            for word in _words(folder / "cgroup.procs"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(word), signal.SIGKILL)

    def try_remove(self) -> bool:
        """Remove the folders if they are free of processes; says whether all are gone."""
        for folder in self.folders:
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                return False
        return True

    def remove(self) -> None:
        """Kill what is left and remove the folders; a folder that is gone already is no error.

        Raises:
            OSError: A process in it cannot be killed.
        """
        for folder in self.folders:
            _remove(folder, self)


def _remove(folder: Path, group: Cgroup) -> None:
    for attempt in range(_REMOVE_TRIES):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            # A process leaves its group a moment after its end can be seen.
            if error.errno != errno.EBUSY or attempt == _REMOVE_TRIES - 1:
                raise
            group.kill()
            time.sleep(_REMOVE_PAUSE_S)
        else:
            return


def _v1_limits(limits: Limits) -> list[tuple[str, str]]:
    return [
        ("cpu.shares", str(max(2, round(limits.cpu * _V1_SHARES)))),
        ("memory.limit_in_bytes", str(limits.mem_bytes)),
        ("memory.memsw.limit_in_bytes", str(limits.mem_bytes)),
        ("pids.max", str(limits.pids)),
    ]


def _v2_limits(limits: Limits) -> list[tuple[str, str]]:
    return [
        ("cpu.weight", str(min(10_000, max(1, round(limits.cpu * _V2_WEIGHT))))),
        ("memory.max", str(limits.mem_bytes)),
        ("memory.swap.max", "0"),
        ("memory.oom.group", "1"),
        ("pids.max", str(limits.pids)),
    ]


def _write(file: Path, value: str) -> None:
    if file.exists():  # A kernel without swap accounting, or a group without this controller.
        file.write_text(value)


def _table(file: Path) -> dict[str, int]:
    words = _words(file)
    return dict(zip(words[::2], map(int, words[1::2]), strict=False))


class CgroupTree:
    """All groups of one worker, below the agent's own group."""

    def __init__(self, state_dir: Path, hierarchies: Hierarchies | None = None) -> None:
        self.hierarchies = hierarchies if hierarchies is not None else find()
        name = f"qonduit-{hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()[:12]}"
        self._root = Cgroup(self.hierarchies.v1, self.hierarchies.v2).below(name)
        self._record = state_dir / _RECORD

    @property
    def folders(self) -> list[Path]:
        """The worker's folders, one in each hierarchy."""
        return self._root.folders

    @property
    def limits_memory(self) -> bool:
        """Whether the kernel enforces the memory limit."""
        return self.hierarchies.has("memory")

    def prepare(self) -> None:
        """Make the worker's folders, and write down where they are for `sweep`.

        Raises:
            OSError: The kernel refused.
        """
        for folder in self._root.folders:
            folder.mkdir(exist_ok=True)
        self._root.hand_on(self.hierarchies.v2_controllers)
        known = {*_recorded(self._record), *(str(folder) for folder in self._root.folders)}
        self._record.parent.mkdir(parents=True, exist_ok=True)
        self._record.write_text(json.dumps(sorted(known)))

    def group(self, sandbox_id: str) -> Cgroup:
        """The group of one sandbox, not made yet."""
        return self._root.below(sandbox_id)

    def hasten(self) -> None:
        """Make the next process that joins a group wait less; takes some milliseconds, best in a thread.

        The kernel lets all processors pass a quiet state before it moves a process, unless it has just done so:
        moving this process to where it is starts that early, beside other work.
        """
        folders = [*self.hierarchies.v1.values(), *([self.hierarchies.v2] if self.hierarchies.v2 else [])]
        for folder in folders[:1]:
            with contextlib.suppress(OSError):
                (folder / "cgroup.procs").write_text("0")

    def close(self) -> None:
        """Remove the worker's folders, which must be empty of processes."""
        for folder in self._root.folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _recorded(record: Path) -> list[str]:
    try:
        return list(json.loads(record.read_text()))
    except (OSError, ValueError):
        return []


def sweep(state_dir: Path) -> int:
    """Kill and remove what an earlier worker with this state directory left; says how many groups that was.

    To be called while no worker uses the directory.
    """
    record = state_dir / _RECORD
    swept = 0
    for root in map(Path, _recorded(record)):
        for folder in [*(path for path in root.glob("*/") if path.is_dir()), root]:
            if folder.is_dir():
                group = Cgroup({"": folder}, None)
                group.kill()
                group.remove()
                swept += 1
    record.unlink(missing_ok=True)
    return swept
