"""One confined command from its start to its end, watched from the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from qonduit_worker.sandbox.sandboxed import open_output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from qonduit_worker.sandbox.cgroups import Cgroup
    from qonduit_worker.zygote.confine import Confinement

_WEIGH_S: Final = 1.0
_MOST_OUTPUT_BYTES: Final = 256 * 1024
_CLOSE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What ends a command early: a moment of the monotonic clock, or the bytes below its folder."""

    deadline: float
    folder: Path
    most_bytes: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended. `early`: which of its bounds ended it."""

    exit_code: int
    output: str
    early: Literal["", "time", "size", "memory"]


async def run_confined(
    command: Sequence[str],
    confinement: Confinement,
    variables: Mapping[str, str],
    *,
    group: Cgroup,
    bounds: Bounds,
    hear: Callable[[str], None],
) -> Ended:
    """Run a command; when this is cancelled or returns, nothing of the command runs any more.

    Args:
        command: The path of a program, and its arguments.
        confinement: What holds it; the control group's descriptors are put in here.
        variables: All of its environment.
        group: The control group that it joins, which the caller removes.
        bounds: What ends it early.
        hear: Told each line of its output at once.
    """
    output, write_end = await open_output()
    reading: asyncio.Task[str] | None = None
    try:
        try:
            process = await _spawn(command, confinement, variables, group, write_end)
        finally:
            os.close(write_end)
        reading = asyncio.create_task(_read(output.reader, hear))
        early = await _until_over(process, group, bounds)
        if process.returncode == -signal.SIGXFSZ:
            early = "size"
        # Whoever still holds the pipe left both the group and the session, or there are no groups.
        await asyncio.wait({reading}, timeout=_CLOSE_S)
        text = reading.result() if reading.done() else ""
        return Ended(process.returncode or 0, text, early or ("memory" if group.readings().oom_kills else ""))
    finally:
        if reading is not None:
            reading.cancel()
        output.transport.close()


async def _spawn(
    command: Sequence[str], confinement: Confinement, variables: Mapping[str, str], group: Cgroup, output: int
) -> asyncio.subprocess.Process:
    procs = tuple(group.open_procs())
    order = dataclasses.replace(confinement, cgroups=procs)
    launcher = (sys.executable, "-P", "-m", "qonduit_worker.zygote.confine", order.dumps())
    try:
        return await asyncio.create_subprocess_exec(
            *launcher,
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=procs,
            env=variables,
            cwd="/",
            start_new_session=True,
        )
    finally:
        for descriptor in procs:
            os.close(descriptor)


async def _until_over(
    process: asyncio.subprocess.Process, group: Cgroup, bounds: Bounds
) -> Literal["", "time", "size"]:
    ended = asyncio.create_task(process.wait())
    heavy = asyncio.create_task(_until_heavy(bounds))
    try:
        patience_s = max(0.0, bounds.deadline - time.monotonic())
        await asyncio.wait({ended, heavy}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        return "" if ended.done() else "size" if heavy.done() else "time"
    finally:
        heavy.cancel()
        group.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await ended


async def _until_heavy(bounds: Bounds) -> None:
    while await asyncio.to_thread(size_of, bounds.folder) <= bounds.most_bytes:  # noqa: ASYNC110 - files tell nobody.
        await asyncio.sleep(_WEIGH_S)


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder; a file with several names counts once."""
    found: dict[int, int] = {}
    for directory, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):  # Somebody may be at work there.
                status = Path(directory, name).lstat()
                found[status.st_ino] = status.st_size
    return sum(found.values())


async def _read(reader: asyncio.StreamReader, hear: Callable[[str], None]) -> str:
    """Read to the end of the output; its first and its last part are kept."""
    lines: list[str] = []
    size = 0
    while data := await _next_line(reader):
        line = data.decode(errors="replace").rstrip("\r\n")
        hear(line)
        size += len(data)
        lines.append(line)
        while size > _MOST_OUTPUT_BYTES and len(lines) > 1:
            size -= len(lines.pop(len(lines) // 2)) + 1
    return "\n".join(lines)


async def _next_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await reader.readexactly(error.consumed)
