"""Where this process may make control groups: version 1, version 2, or both side by side."""

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

CgroupMode = Literal["v1", "v2", "hybrid", "none"]

_CONTROLLERS: Final = ("cpu", "memory", "pids")
_V1_WANTED: Final = ("cpu", "cpuacct", "memory", "pids")


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
    wanted = [name for name in _CONTROLLERS if name in words(folder / "cgroup.controllers")]
    if any(name not in words(control) for name in wanted):
        _leave_to_leaf(folder)
    for name in wanted:
        with contextlib.suppress(OSError):
            control.write_text(f"+{name}")
    return frozenset(words(control)) & set(_CONTROLLERS)


def _leave_to_leaf(folder: Path) -> None:
    """Move this worker out of its own group, which may not hold processes once it hands controllers on.

    Only a group that holds nothing but this process and its children is rearranged.
    """
    pids = {int(word) for word in words(folder / "cgroup.procs")}
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


def words(file: Path) -> list[str]:
    """What a control file says, word by word; nothing when it cannot be read."""
    with contextlib.suppress(OSError):
        return file.read_text().split()
    return []
