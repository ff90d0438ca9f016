"""All control groups of one worker, below the agent's own group.

They are in one folder for each state directory, so that two workers on one machine do not meet and a later
incarnation finds what an earlier one left.
"""

import contextlib
import hashlib
import json
import threading
from collections import deque
from itertools import count
from pathlib import Path
from typing import Final

from qonduit_worker.sandbox.cgroups import Cgroup
from qonduit_worker.sandbox.hierarchies import Hierarchies, find
from qonduit_worker.sandbox.model import Limits

_RECORD: Final = "cgroups.json"
_SPARES: Final = 2


class CgroupTree:
    """All groups of one worker, below the agent's own group."""

    def __init__(self, state_dir: Path, hierarchies: Hierarchies | None = None) -> None:
        self.hierarchies = hierarchies if hierarchies is not None else find()
        name = f"qonduit-{hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()[:12]}"
        self._root = Cgroup(self.hierarchies.v1, self.hierarchies.v2).below(name)
        # Any one hierarchy will do.
        self._own = Cgroup(self.hierarchies.v1, self.hierarchies.v2).folders[:1]
        self._record = state_dir / _RECORD
        self._numbers = count()
        self._spares: deque[Cgroup] = deque()
        self._refilling = threading.Lock()
        self._closed = False

    @property
    def folders(self) -> list[Path]:
        """The worker's folders, one in each hierarchy."""
        return self._root.folders

    @property
    def limits_memory(self) -> bool:
        """Whether the kernel enforces the memory limit."""
        return self.hierarchies.has("memory")

    @property
    def weighs_cpu(self) -> bool:
        """Whether the kernel shares the cpu out among sandboxes, by what they asked for."""
        return self.hierarchies.has("cpu")

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

    def take(self, limits: Limits) -> Cgroup:
        """A group for one sandbox, with its limits; one that is ready if there is one.

        Raises:
            OSError: The kernel refused.
        """
        try:
            group = self._spares.popleft()
        except IndexError:
            group = self._new()
        group.apply(limits)
        return group

    def _new(self) -> Cgroup:
        group = self._root.below(f"sandbox-{next(self._numbers)}")
        group.create()
        return group

    def hasten(self) -> None:
        """Make what comes next quick; takes some milliseconds, best in a thread beside a fork.

        The kernel lets all processors pass a quiet state before it moves a process into a group, unless it has
        just done so: moving this process to where it is starts that early. New groups have to wait for it too,
        so some are made ahead.
        """
        for folder in self._own:
            with contextlib.suppress(OSError):
                (folder / "cgroup.procs").write_text("0")
        with self._refilling:
            while len(self._spares) < _SPARES and not self._closed:
                self._spares.append(self._new())

    def close(self) -> None:
        """Remove the worker's folders, which must be empty of processes; safe to call twice."""
        with self._refilling:
            self._closed = True
            while self._spares:
                self._spares.pop().remove()
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
