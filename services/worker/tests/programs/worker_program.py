"""A worker reduced to its sandboxes: starts one with stubborn processes in it, says their numbers, and waits."""

import asyncio
import sys
from pathlib import Path
from typing import cast

from qonduit_worker.sandbox import CgroupTree, SandboxConfig, Tier, Zygote
from qonduit_worker.sandbox.testing import STUBBORN, Sandboxes


async def main() -> None:
    folder = Path(sys.argv[1])
    cgroups = CgroupTree(folder)
    cgroups.prepare()
    zygote = Zygote(config=SandboxConfig(folder / "state", cast("Tier", sys.argv[2])), cgroups=cgroups)
    await zygote.start()
    sandbox = await Sandboxes(zygote, folder).fork(STUBBORN)
    await sandbox.output.readline()
    print(zygote.pid, *sandbox.processes(), flush=True)  # noqa: T201 - what the test waits for.
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
