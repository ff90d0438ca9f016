"""A worker reduced to its sandboxes: starts one with stubborn processes in it, says their numbers, and waits."""

import asyncio
import sys
from pathlib import Path

from qonduit_worker.sandbox import CgroupTree, Limits, SandboxConfig, SandboxSpec, Zygote, proctree

STUBBORN = """
import os, signal, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if os.fork():
            os._exit(0)
        while True:
            time.sleep(60)
for _ in range(3):
    os.wait()
print("ready", flush=True)
time.sleep(600)
"""


async def main() -> None:
    folder = Path(sys.argv[1])
    cgroups = CgroupTree(folder)
    cgroups.prepare()
    config = SandboxConfig(folder / "state", sys.argv[2], python_path=(Path(__file__).parent,))  # type: ignore[arg-type]
    zygote = Zygote(config=config, cgroups=cgroups)
    await zygote.start()
    directory = folder / "box"
    for name in ("job", "data", "run"):
        (directory / name).mkdir(parents=True)
    limits = Limits(cpu=1.0, mem_bytes=2**28, tmp_bytes=2**20)
    sandbox = await zygote.fork(
        SandboxSpec("stubborn", directory, limits, {"CODE": STUBBORN}, "sandbox_program:run_code")
    )
    line = await sandbox.output.readline()
    if line != b"ready\n":
        raise RuntimeError(line + await sandbox.output.read())
    pids = [zygote.pid, *proctree.tree(sandbox.pid)]
    # A process that lost its parent inside the sandbox is below its first process all the same.
    print(*pids, flush=True)
    await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(main())
