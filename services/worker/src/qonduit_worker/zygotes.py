"""The preloaded interpreters of this worker, kept alive, and forks from the one that fits."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.logs import get_logger

from qonduit_worker import metrics
from qonduit_worker.sandbox import Zygote, ZygoteDiedError, ZygoteStartError

if TYPE_CHECKING:
    from pathlib import Path

    from qonduit_worker.dependencies import Layer
    from qonduit_worker.sandbox import CgroupTree, InsidePaths, SandboxConfig, Sandboxed, SandboxSpec

WARM: Final = "qonduit_worker.warmth:warm_up"
_TRIES: Final = 3
_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_TOLD_S: Final = 0.1

_log = get_logger(__name__)


class _Nest:
    """One zygote, started again whenever it died."""

    def __init__(self, name: str, zygote: Zygote) -> None:
        self.name = name
        self.zygote = zygote
        self.deaths = 0
        self.ready = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        await self.zygote.stop()

    async def _keep(self) -> None:
        pause = _PAUSE_S
        while True:
            begun = time.monotonic()
            try:
                await self.zygote.start()
            except (ZygoteStartError, OSError) as error:  # OSError: of memory, processes or descriptors none is left.
                _log.error("zygote_does_not_start", zygote=self.name, reason=str(error))
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                continue
            _log.info("zygote_ready", zygote=self.name, seconds=round(time.monotonic() - begun, 2))
            pause = _PAUSE_S
            self.ready.set()
            await self.zygote.died()
            self.deaths += 1
            self.ready.clear()
            _log.warning("zygote_died", zygote=self.name)
            await self.zygote.stop()


@dataclass(frozen=True, slots=True)
class Forked:
    """A sandbox and the zygote that it came from."""

    sandboxed: Sandboxed
    nest: _Nest
    deaths: int

    async def orphaned(self) -> bool:
        """Tell whether a sandbox that was killed was killed because its zygote died, not for its own doing."""
        if self.nest.deaths == self.deaths and self.nest.zygote.running:
            try:  # The end of the sandbox may be seen a moment before the end of the zygote.
                await asyncio.wait_for(self.nest.zygote.died(), _TOLD_S)
            except TimeoutError:
                return False
        return True


class ZygotePool:
    """Zygotes: a warm one for programs of one CPU, and one that has only imported for wider ones.

    A child of a process that used Qiskit's thread pool hangs, so the warm one used one thread; a program of
    several threads starts from one that never transpiled at all. The wide one starts once the warm one is ready.

    Both are forked from a base that imports and runs no program, so that what it has imported is in memory once.
    Either may die alone and is forked from the base again. When the base dies both die with it, and the first of
    them that is started again starts it.

    A program with a layer that brings another version of what these have imported starts from a third, which has
    imported nothing, and imports inside its sandbox: packages that a user chose are that user's code, and must
    never run in a zygote. That one starts when it is first needed.
    """

    def __init__(self, config: SandboxConfig, cgroups: CgroupTree, *, preload: tuple[str, ...], warm: bool) -> None:
        self._cgroups = cgroups
        self._base = Zygote(config=config, cgroups=cgroups, preload=preload)
        narrow = Zygote(config=config, cgroups=cgroups, warm=WARM if warm else None, base=self._base)
        self._narrow = _Nest("one-cpu", narrow)
        self._wide = _Nest("wide", Zygote(config=config, cgroups=cgroups, base=self._base))
        self._bare = _Nest("bare", Zygote(config=config, cgroups=cgroups))

    @property
    def base_pid(self) -> int:
        """The process that the zygotes are forked from, as this process numbers it."""
        return self._base.pid

    async def start(self) -> None:
        """Start the warm zygote and return once programs can be forked."""
        self._narrow.start()
        await self._narrow.ready.wait()
        self._wide.start()

    async def stop(self) -> None:
        """End every zygote and every sandbox, and remove their control groups; safe to call twice."""
        await asyncio.gather(self._narrow.stop(), self._wide.stop(), self._bare.stop())
        await self._base.stop()
        await asyncio.to_thread(self._cgroups.close)

    def inside(self, directory: Path, layer: Layer | None = None) -> InsidePaths:
        """Where a program in a sandbox with this folder, and maybe a layer, finds its own folders."""
        return self._narrow.zygote.inside(directory, layer.packages if layer is not None else None)

    async def ready(self, threads: int) -> None:
        """Return once a program with so many threads can be forked."""
        await self._nest(threads).ready.wait()

    def _nest(self, threads: int) -> _Nest:
        return self._narrow if threads == 1 else self._wide

    async def _nest_for(self, threads: int, layer: Layer | None) -> _Nest:
        nest = self._nest(threads)
        await nest.ready.wait()
        if layer is not None and layer.modules & nest.zygote.imported:
            nest = self._bare
            nest.start()
            await nest.ready.wait()
        return nest

    async def fork(self, spec: SandboxSpec, *, threads: int, kind: str, layer: Layer | None = None) -> Forked:
        """Make a sandbox.

        Args:
            spec: What to make; its layer is that of `layer`.
            threads: How many threads the program's libraries will start.
            kind: What the sandbox is for, as metrics call it.
            layer: The packages of the program's own, which decide what it is forked from.

        Raises:
            ZygoteDiedError: The zygote died again and again.
            SandboxStartError: The sandbox could not be set up.
        """
        for _ in range(_TRIES):
            nest = await self._nest_for(threads, layer)
            begun, deaths = time.monotonic(), nest.deaths
            try:
                sandboxed = await nest.zygote.fork(spec)
            except ZygoteDiedError:
                await asyncio.sleep(_TOLD_S)
                continue
            metrics.FORKS.labels(kind).inc()
            metrics.FORK_SECONDS.observe(time.monotonic() - begun)
            return Forked(sandboxed, nest, deaths)
        raise ZygoteDiedError(f"the zygote died {_TRIES} times while it forked")
