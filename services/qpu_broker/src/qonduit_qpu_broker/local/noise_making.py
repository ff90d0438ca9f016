"""Makes tables of devices' noise, beside the jobs: in a process that has seen nothing a program wrote.

The simulator's process has a model in hand, but it decodes what programs submit: a program that takes it over must
not decide about the noise of later ones. So another process, as confined and with a low priority, makes it anew.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from qonduit_service_kit.logs import get_logger

from qonduit_qpu_broker.local.launching import launch

if TYPE_CHECKING:
    from pathlib import Path

    from qonduit_qpu_broker.local.launching import Limits
    from qonduit_qpu_broker.local.noise_files import NoiseFiles

_log = get_logger("noise-making")
_TIME_LIMIT_S = 3600.0
"""A large device takes half a minute of a free core, and gets what jobs leave."""
_REASON_CHARACTERS = 500


class NoiseMaker:
    """Makes tables one after the other, each once: what can't be made or kept is tried again after the next start."""

    def __init__(self, files: NoiseFiles, limits: Limits, scratch: Path) -> None:
        self._files = files
        self._limits = replace(limits, threads=1)
        self._scratch = scratch
        self._wanted: asyncio.Queue[str] = asyncio.Queue()
        self._tried: set[str] = set()
        self._making: asyncio.Task[None] | None = None

    def want(self, device: str) -> None:
        """Have a device's table made, if it isn't there; returns at once."""
        if device in self._tried or self._files.exists(device):
            return
        self._tried.add(device)
        self._wanted.put_nowait(device)
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._make_all(), name="make-noise-tables")

    async def stop(self) -> None:
        """End what is being made; safe to call twice."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.wait([self._making])

    async def _make_all(self) -> None:
        while not self._wanted.empty():
            device = self._wanted.get_nowait()
            try:
                await self._make(device)
            except (OSError, TimeoutError) as error:
                _log.warning("a noise model is not kept", device=device, reason=f"{type(error).__name__}: {error}")

    async def _make(self, device: str) -> None:
        process = await launch(self._limits, self._scratch, "--noise-table-of", device)
        try:
            async with asyncio.timeout(_TIME_LIMIT_S):
                table, printed = await process.communicate()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode != 0:
            reason = printed.decode(errors="replace").strip()[-_REASON_CHARACTERS:]
            _log.warning("a noise model is not kept", device=device, code=process.returncode, reason=reason)
            return
        await asyncio.to_thread(self._files.write, device, table)
        _log.info("a noise model is kept", device=device, size_bytes=len(table))
