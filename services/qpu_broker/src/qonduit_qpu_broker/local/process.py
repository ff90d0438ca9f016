"""The simulator's process as its parent sees it: started, prewarmed, limited, started again when it dies."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING

from qonduit_service_kit.logs import get_logger

from qonduit_qpu_broker.local.launching import Limits, launch
from qonduit_qpu_broker.simulator.frames import (
    MAX_HEADER_BYTES,
    MAX_RESULT_BYTES,
    PREFIX,
    SimulationReply,
    SimulationRequest,
    pack,
)

if TYPE_CHECKING:
    from pathlib import Path

    from qonduit_qpu_broker.local.noise_files import NoiseFiles

_log = get_logger("simulator")
_START_TIMEOUT_S = 120.0
_STDERR_TAIL = 4096
_DYING_S = 2.0
"""How long a process whose pipe broke may take to be gone by itself."""


class SimulatorDiedError(Exception):
    """The simulator's process ended in the middle of a job; the text says how."""


class SimulatorProcess:
    """One process that runs one job at a time; `simulate` starts it if it isn't there."""

    def __init__(self, limits: Limits, scratch: Path, noise: NoiseFiles | None = None) -> None:
        self._limits = limits
        self._scratch = scratch
        self._noise = noise
        self._told: set[str] = set()
        """Devices whose noise the process has been given."""
        self._process: asyncio.subprocess.Process | None = None
        self._draining: asyncio.Task[None] | None = None
        self._stderr = b""
        self._busy = asyncio.Lock()

    async def ensure(self) -> None:
        """Return once a process is ready; SimulatorDiedError if it does not start."""
        async with self._busy:
            await self._ready()

    async def simulate(self, request: SimulationRequest, body: bytes) -> tuple[SimulationReply, bytes]:
        """Run one job.

        Raises:
            SimulatorDiedError: The process ended, or was ended for the time it took.
        """
        async with self._busy:
            process = await self._ready()
            try:
                async with asyncio.timeout(self._limits.time_limit_s):
                    if request.noisy:
                        await self._tell_noise(process, request.backend)
                    return await self._exchange(process, pack(request, body))
            except TimeoutError:
                await self._end()
                raise SimulatorDiedError(
                    f"The simulation took longer than {self._limits.time_limit_s:.0f} s and was ended; "
                    "use fewer qubits, shots or parameter values."
                ) from None
            except (asyncio.IncompleteReadError, ConnectionError, ValueError, TypeError):
                raise SimulatorDiedError(await self._post_mortem()) from None
            except asyncio.CancelledError:
                # Half a job is in its pipes: this process can't take another one.
                await self._end()
                raise

    async def stop_when_free(self) -> None:
        """End the process after the job in hand; the next one starts another."""
        async with self._busy:
            await self._end()

    async def stop(self) -> None:
        """End the process; safe to call twice."""
        await self._end()

    async def _ready(self) -> asyncio.subprocess.Process:
        process = self._process
        if process is not None and process.returncode is None:
            return process
        process = await launch(self._limits, self._scratch)
        self._process = process
        self._stderr = b""
        self._told.clear()
        self._draining = asyncio.create_task(self._drain(process))
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await self._read(process)
        except (TimeoutError, asyncio.IncompleteReadError):
            raise SimulatorDiedError(f"The simulator did not start. {await self._post_mortem()}") from None
        except asyncio.CancelledError:
            await self._end()
            raise
        _log.info("the simulator is ready", pid=process.pid)
        return process

    async def _tell_noise(self, process: asyncio.subprocess.Process, device: str) -> None:
        """Give the process a device's noise, if that was kept: it reads no file of the broker's."""
        if self._noise is None or device in self._told:
            return
        if table := await asyncio.to_thread(self._noise.read, device):
            self._told.add(device)
            request = SimulationRequest("", device, noisy=True, noise_table=True)
            reply, _ = await self._exchange(process, pack(request, table))
            if not reply.ok:
                self._noise.drop(device, reply.reason)

    async def _exchange(self, process: asyncio.subprocess.Process, frame: bytes) -> tuple[SimulationReply, bytes]:
        if process.stdin is None:
            raise ConnectionError("the simulator has no stdin")
        process.stdin.write(frame)
        await process.stdin.drain()
        return await self._read(process)

    async def _read(self, process: asyncio.subprocess.Process) -> tuple[SimulationReply, bytes]:
        if process.stdout is None:
            raise ConnectionError("the simulator has no stdout")
        header_length, body_length = PREFIX.unpack(await process.stdout.readexactly(PREFIX.size))
        if header_length > MAX_HEADER_BYTES or body_length > MAX_RESULT_BYTES:
            raise ValueError("the simulator sends more than it may")
        header = json.loads(await process.stdout.readexactly(header_length))
        return SimulationReply(**header), await process.stdout.readexactly(body_length)

    async def _drain(self, process: asyncio.subprocess.Process) -> None:
        """Keep the end of what it prints: it is told when the process dies."""
        while process.stderr is not None and (piece := await process.stderr.read(4096)):
            self._stderr = (self._stderr + piece)[-_STDERR_TAIL:]

    async def _post_mortem(self) -> str:
        process = self._process
        if process is not None:
            # Its pipe closes before its end is known; to kill it between the two would lose how it ended.
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _DYING_S)
        await self._end()
        code = None if process is None else process.returncode
        last = self._stderr.decode(errors="replace").strip().splitlines()[-1:]
        _log.warning("the simulator died", code=code, stderr=self._stderr.decode(errors="replace"))
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        return (
            f"The simulator's process ended {how} in the middle of this job, most often for lack of memory "
            f"(it may use {self._limits.memory_bytes // 1024**2} MiB). {' '.join(last)}"
        ).strip()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.wait()
        if self._draining is not None:
            await asyncio.wait([self._draining], timeout=1.0)
