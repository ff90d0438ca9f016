"""Sandboxes: confined processes forked from preloaded interpreters.

```
cgroups = CgroupTree(state_dir); cgroups.prepare()
zygote = Zygote(config=SandboxConfig(state_dir, probe().tier), cgroups=cgroups, preload=["qiskit"])
await zygote.start()
sandbox = await zygote.fork(spec)
```
"""

from qonduit_worker.sandbox.cgroup_tree import CgroupTree, sweep
from qonduit_worker.sandbox.errors import SandboxError, SandboxStartError, ZygoteDiedError, ZygoteStartError
from qonduit_worker.sandbox.model import Exit, InsidePaths, Limits, SandboxSpec, Tier, Usage
from qonduit_worker.sandbox.probing import SandboxReport, probe
from qonduit_worker.sandbox.sandboxed import Sandboxed
from qonduit_worker.sandbox.zygote import SandboxConfig, Zygote
from qonduit_worker.zygote.wire import PORT_PLACEHOLDER

__all__ = [
    "PORT_PLACEHOLDER",
    "CgroupTree",
    "Exit",
    "InsidePaths",
    "Limits",
    "SandboxConfig",
    "SandboxError",
    "SandboxReport",
    "SandboxSpec",
    "SandboxStartError",
    "Sandboxed",
    "Tier",
    "Usage",
    "Zygote",
    "ZygoteDiedError",
    "ZygoteStartError",
    "probe",
    "sweep",
]
