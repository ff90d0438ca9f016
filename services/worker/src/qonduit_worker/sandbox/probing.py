"""Finding out, by trying, how well this machine can confine programs."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qonduit_worker.sandbox.hierarchies import CgroupMode, Hierarchies, find
from qonduit_worker.sandbox.model import Tier

_TIMEOUT_S: Final = 30.0
_SENTENCES: Final = {
    "room": "Programs get no namespaces of their own ({}). Allow unprivileged user namespaces, or in a container the "
    "system calls clone, unshare, mount, umount2 and pivot_root.",
    "proc": "Programs have no /proc ({}): this container hides parts of its own. Start it with unmasked system paths.",
    "users": "Programs get no user namespace ({}); they still run under a user of their own, or without rights.",
    "seccomp": "Programs may make any system call ({}): this kernel has no seccomp filters for this machine type.",
    "landlock": "Files are not confined a second time ({}): it needs Linux 5.13 with Landlock switched on.",
    "landlock_network": "Programs may connect to any TCP port of this machine (Landlock is {}): it needs Linux 6.7.",
    "uid": "Programs run under the worker's own user ({}), which no namespace keeps apart from it here.",
    "others": "A user for each sandbox could not read this interpreter ({}): install it where everyone may read.",
    "memory": "No memory control group: a watchdog measures the memory of programs up to ten times a second instead.",
    "cpu": "No cpu control group: all programs share the CPUs alike, whatever they asked for.",
    "pids": "No pids control group: nothing bounds how many processes a program starts but its user's limit.",
}


@dataclass(frozen=True, slots=True)
class SandboxReport:
    """What this machine can do.

    Attributes:
        tier: A, namespaces of their own; B, a user for each sandbox, Landlock and a filter on the machine's own
            tree; C, nothing that keeps a program from the worker's own files.
        cgroup: Which versions of control groups this process may use.
        missing: One sentence for each part that is not there, and what would help.
    """

    tier: Tier
    cgroup: CgroupMode
    missing: tuple[str, ...]


def probe() -> SandboxReport:
    """Try each part of a sandbox in a process of its own; takes about a fifth of a second.

    Raises:
        subprocess.SubprocessError: The trial itself broke.
    """
    with tempfile.TemporaryDirectory(prefix="qonduit-probe-") as folder:
        for name in ("job", "data", "run"):
            Path(folder, name).mkdir()
        command = [sys.executable, "-P", "-m", "qonduit_worker.zygote.trial", folder]
        answer = subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT_S)
    return judge(json.loads(answer.stdout), find())


def judge(trial: dict[str, str | None], hierarchies: Hierarchies) -> SandboxReport:
    """Name the tier and what is missing.

    Args:
        trial: What the trial printed: for each part, why it failed, or None.
        hierarchies: The control groups there are.
    """
    failed = {part: reason for part, reason in trial.items() if reason is not None}
    tier: Tier = "C"
    if not failed.keys() & {"room", "seccomp"}:
        tier = "A"
        failed = {part: failed[part] for part in failed.keys() & {"proc", "users", "landlock"}}
    elif not failed.keys() & {"uid", "others", "landlock", "seccomp"}:
        tier = "B"
    if "room" in failed:
        failed = {part: reason for part, reason in failed.items() if part not in ("proc", "users")}
    sentences = [_SENTENCES[part].format(reason) for part, reason in sorted(failed.items())]
    sentences += [_SENTENCES[name] for name in ("cpu", "memory", "pids") if not hierarchies.has(name)]
    return SandboxReport(tier, hierarchies.mode, tuple(sentences))
