"""The layers of this machine: each is built once, shared by all jobs that want it, and removed when room is needed."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from qonduit_service_kit.logs import get_logger

from qonduit_worker import metrics
from qonduit_worker.dependencies.confined import size_of
from qonduit_worker.dependencies.default import DefaultEnvironment
from qonduit_worker.dependencies.requirements import DependencyError, digest_of, line_of, parse, unmet
from qonduit_worker.shielding import to_its_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from pathlib import Path

    from packaging.requirements import Requirement

    from qonduit_worker.dependencies.building import Builder

    Tell = Callable[[str], Awaitable[None]]

_PART: Final = ".part"
_RECORD: Final = "layer.json"
_PACKAGES: Final = "site-packages"
_PASSABLE: Final = 0o755
_MOST_LINES: Final = 500

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Layer:
    """Packages over the default environment.

    Attributes:
        digest: Its name: of the requirements and of the default environment.
        packages: The folder to import them from; never changed.
        modules: The modules, outermost names only, that it brings or brings in another version.
        size_bytes: Of all its files.
    """

    digest: str
    packages: Path
    modules: frozenset[str]
    size_bytes: int


class _Build:
    """A build under way, and what it said so far."""

    def __init__(self, work: Callable[[Callable[[str], None]], Coroutine[None, None, Layer]]) -> None:
        self._lines: list[str] = []
        self._news = asyncio.Event()
        self.task = asyncio.create_task(work(self._say))
        self.task.add_done_callback(lambda _: self._wake())

    def _say(self, line: str) -> None:
        if len(self._lines) < _MOST_LINES:
            self._lines.append(line)
            self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def follow(self, tell: Tell) -> Layer:
        """Tell every line, from the first, until the end; a listener that is slow holds up nobody else."""
        told = 0
        while True:
            while told < len(self._lines):
                await tell(self._lines[told])
                told += 1
            if self.task.done():
                return self.task.result()
            await self._news.wait()


class LayerStore:
    """A folder of layers by digest.

    A layer appears under its digest whole or not at all: it is built beside its place, made durable, and renamed.
    What a build left that died on its way is removed at the next start.

    Args:
        folder: Where layers are kept; programs of other users must be able to enter it.
        builder: What builds them.
        capacity_bytes: Beyond it those go that were not used for longest; never one in use.
    """

    def __init__(self, folder: Path, builder: Builder, *, capacity_bytes: int) -> None:
        self._folder = folder
        self._builder = builder
        self._capacity_bytes = capacity_bytes
        self._layers: dict[str, Layer] = {}
        """The least recently used one first."""
        self._users: Counter[str] = Counter()
        self._builds: dict[str, _Build] = {}
        self._cleaning: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[DefaultEnvironment] | None = None

    async def start(self) -> None:
        """Remove leftovers, and learn which layers are there."""
        for layer in await asyncio.to_thread(self._survey):
            self._layers[layer.digest] = layer
        self._looking = asyncio.create_task(asyncio.to_thread(DefaultEnvironment.look))
        self._evict()

    async def stop(self) -> None:
        """End all builds; safe to call twice."""
        builds = [build.task for build in self._builds.values()]
        for build in builds:
            build.cancel()
        looking = [self._looking] if self._looking is not None else []
        await asyncio.gather(*builds, *self._cleaning, *looking, return_exceptions=True)

    async def hold(self, dependencies: Sequence[str], tell: Tell) -> Layer | None:
        """Return the layer that dependencies need, built if it is not here; None where the default environment does.

        It stays until `release`. A build ends when everybody who waits for it was cancelled.

        Args:
            dependencies: Requirements as a function's author wrote them.
            tell: Told a line for each step of a build.

        Raises:
            DependencyError: They are not accepted, or cannot be had.
        """
        if not dependencies:
            return None
        if self._looking is None:
            raise RuntimeError("the store was not started")
        requirements = parse(dependencies, direct=self._builder.rules.addresses)
        default = await asyncio.shield(self._looking)
        if not unmet(requirements, default.installed):
            return None
        digest = digest_of(requirements, default.digest)
        self._users[digest] += 1
        try:
            layer = self._layers.get(digest) or await self._build_of(digest, requirements, default).follow(tell)
        except BaseException:
            self._let_go(digest)
            raise
        self._layers[digest] = self._layers.pop(digest, layer)
        with contextlib.suppress(OSError):
            os.utime(layer.packages.parent / _RECORD)
        return layer

    def release(self, layer: Layer) -> None:
        """Say that one holder has no use for a layer any more."""
        self._let_go(layer.digest)
        self._evict()

    def _let_go(self, digest: str) -> None:
        self._users[digest] -= 1
        if not self._users[digest]:
            del self._users[digest]
            # Not waited for: whoever wants this layer next starts a build of its own.
            if (build := self._builds.pop(digest, None)) is not None and not build.task.done():
                build.task.cancel()
                self._clean(build.task)

    def _build_of(self, digest: str, requirements: Sequence[Requirement], default: DefaultEnvironment) -> _Build:
        build = self._builds.get(digest)
        if build is None:
            build = _Build(lambda say: self._build(digest, requirements, default, say))
            self._builds[digest] = build
            build.task.add_done_callback(lambda _: self._over(digest, build))
        return build

    def _over(self, digest: str, build: _Build) -> None:
        if self._builds.get(digest) is build:
            del self._builds[digest]
        if not build.task.cancelled() and build.task.exception() is None:
            self._layers[digest] = build.task.result()
            self._evict()

    async def _build(
        self, digest: str, requirements: Sequence[Requirement], default: DefaultEnvironment, say: Callable[[str], None]
    ) -> Layer:
        names = ", ".join(map(line_of, requirements))
        begun, outcome = time.monotonic(), "failed"
        part = self._folder / f"{digest[:16]}-{uuid.uuid4().hex[:8]}{_PART}"
        say(f"building the environment of this function: {names}")
        try:
            part.mkdir()
            packages = await self._builder.build(requirements, default, part, say)
            layer = await to_its_end(asyncio.to_thread(self._keep, digest, part, packages))
            outcome = "built"
        except asyncio.CancelledError:
            outcome = "canceled"
            raise
        except DependencyError as error:
            text = f"The environment of the function could not be built from {names}.\n{error}"
            raise DependencyError(text) from None
        finally:
            took_s = time.monotonic() - begun
            metrics.BUILDS.labels(outcome).inc()
            metrics.BUILD_SECONDS.observe(took_s)
            _log.info("layer", digest=digest, requirements=names, outcome=outcome, seconds=round(took_s, 2))
            await to_its_end(asyncio.to_thread(shutil.rmtree, part, ignore_errors=True))
        say(f"built in {took_s:.1f} s, {layer.size_bytes / 1024**2:,.1f} MiB")
        return layer

    # --- Files: what follows runs in threads --------------------------------------------------

    def _survey(self) -> list[Layer]:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(_PASSABLE)
        found: list[tuple[float, Layer]] = []
        for place in self._folder.iterdir():
            try:
                found.append(((place / _RECORD).stat().st_mtime, _read(place)))
            except (OSError, ValueError, KeyError, TypeError):
                _log.warning("layer_leftover_removed", name=place.name)
                shutil.rmtree(place, ignore_errors=True)
        return [layer for _, layer in sorted(found, key=lambda each: each[0])]

    def _keep(self, digest: str, part: Path, packages: Path) -> Layer:
        """Give a layer its place. It may be there: a cancel came when it was there already."""
        place, whole = self._folder / digest, part / "whole"
        if not place.exists():
            whole.mkdir()
            packages.rename(whole / _PACKAGES)
            for folder in (whole, whole / _PACKAGES):
                folder.chmod(_PASSABLE)  # Programs are other users, whatever the worker's umask.
            record = {"modules": sorted(_modules(whole / _PACKAGES)), "size_bytes": size_of(whole)}
            (whole / _RECORD).write_text(json.dumps(record))
            _make_durable(whole)
            whole.rename(place)
            _make_durable(self._folder)
        return _read(place)

    def _evict(self) -> None:
        size = sum(layer.size_bytes for layer in self._layers.values())
        for layer in list(self._layers.values()):
            if size > self._capacity_bytes and layer.digest not in self._users:
                size -= self._layers.pop(layer.digest).size_bytes
                # Renamed first, so that half a layer is never found under a digest.
                gone = self._folder / f"{uuid.uuid4().hex}{_PART}"
                with contextlib.suppress(OSError):  # Then it is only forgotten, until the next start.
                    layer.packages.parent.rename(gone)
                self._clean(asyncio.create_task(asyncio.to_thread(shutil.rmtree, gone, ignore_errors=True)))
                _log.info("layer_evicted", digest=layer.digest, size_bytes=layer.size_bytes)
        metrics.LAYER_BYTES.set(size)

    def _clean(self, task: asyncio.Task[Any]) -> None:
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)


def _read(place: Path) -> Layer:
    record = json.loads((place / _RECORD).read_text())
    return Layer(place.name, place / _PACKAGES, frozenset(record["modules"]), int(record["size_bytes"]))


def _modules(packages: Path) -> set[str]:
    entries = (entry for entry in packages.iterdir() if entry.is_dir() or entry.suffix in {".py", ".so"})
    return {entry.name.partition(".")[0] for entry in entries if entry.suffix != ".dist-info"} - {"bin", "__pycache__"}


def _make_durable(folder: Path) -> None:
    """Have the file system write out all that it holds; much quicker than file by file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), f"{folder} could not be made durable")
    finally:
        os.close(descriptor)
