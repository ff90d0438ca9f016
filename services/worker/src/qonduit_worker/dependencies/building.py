"""Builds one layer with uv: resolves over the default environment, then installs what is missing there."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uv

from qonduit_worker.dependencies.confined import Bounds, Ended, run_confined
from qonduit_worker.dependencies.default import write_view
from qonduit_worker.dependencies.plan import Plan, failure_of, progress_of, read_plan
from qonduit_worker.dependencies.requirements import DependencyError, line_of
from qonduit_worker.sandbox import Limits
from qonduit_worker.zygote.confine import Confinement

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from packaging.requirements import Requirement

    from qonduit_worker.dependencies.default import DefaultEnvironment
    from qonduit_worker.sandbox import CgroupTree

    Say = Callable[[str], None]

_MIB: Final = 1024**2
_PIDS: Final = 512
_LISTED: Final = 40
_WHEELS_ONLY: Final = "--no-build"
_NO_SOURCES: Final = (
    "\n(Building runs the code of strangers. Ask for a version with a wheel, or have the operator allow it: "
    "QONDUIT_WORKER_DEPENDENCY_SOURCES=true.)"
)


@dataclass(frozen=True, slots=True)
class BuildRules:
    """What builds may do, and how much of it.

    Attributes:
        find_links: Folders or pages of wheels to look through, beside what uv is configured to use.
        no_index: Look through nothing else.
        sources: Whether source distributions may be built, which runs their code.
        addresses: Whether requirements may name addresses and paths.
        time_limit_s: Most that one build may take.
        layer_bytes: Most that one build may write.
        mem_bytes: Most memory that one build may hold.
    """

    find_links: tuple[str, ...] = ()
    no_index: bool = False
    sources: bool = False
    addresses: bool = False
    time_limit_s: float = 900.0
    layer_bytes: int = 8 * 1024**3
    mem_bytes: int = 2 * 1024**3


class Builder:
    """Runs uv, each time in a control group of its own, with only the build's folder to write to.

    Args:
        rules: What builds may do.
        cgroups: The worker's control groups, prepared.
        hidden: The worker's own folder.
        environment: All the environment variables that uv gets, but for the folders that it works in.
    """

    def __init__(self, rules: BuildRules, cgroups: CgroupTree, hidden: Path, environment: Mapping[str, str]) -> None:
        self.rules = rules
        self._cgroups = cgroups
        self._hidden = hidden
        cache = environment.get("UV_CACHE_DIR", "")
        # What strangers' code could write to must not be there for the next build.
        self._shared_cache = Path(cache).absolute() if cache and not rules.sources else None
        self._environment = environment

    async def build(
        self, requirements: Sequence[Requirement], default: DefaultEnvironment, folder: Path, say: Say
    ) -> Path:
        """Install what requirements need and the default environment lacks; returns the folder of packages.

        Args:
            requirements: What the function asks for.
            default: The environment that is there already.
            folder: An empty folder for this build alone; more than the result is left in it.
            say: Told a line for each step.

        Raises:
            DependencyError: It cannot be built.
            OSError: The machine refused a file or a control group.
        """
        deadline = time.monotonic() + self.rules.time_limit_s
        packages, wanted, exact = folder / "packages", folder / "requirements.txt", folder / "plan.txt"
        for name in ("tmp", "cache", "packages"):
            (folder / name).mkdir()
        if self._shared_cache is not None:
            self._shared_cache.mkdir(parents=True, exist_ok=True)
        python = await asyncio.to_thread(write_view, folder / "default")
        wanted.write_text("\n".join([*map(line_of, requirements), default.root]))
        bounds = Bounds(deadline, folder, self.rules.layer_bytes)
        try:
            plan = read_plan(await self._uv(["--dry-run", "--python", str(python), "-r", str(wanted)], bounds, say))
        except DependencyError as error:
            if default.root not in str(error):
                raise
            why = f"{default.root} is the worker's own: what a function depends on has to go together with it."
            raise DependencyError(f"{error}\n({why})") from None
        if plan.lines:
            say(_summary(plan))
            exact.write_text("\n".join(plan.lines))
            where = ["--target", str(packages), "--python", sys.executable]
            await self._uv([*where, "--no-deps", "--compile-bytecode", "-r", str(exact)], bounds, say)
            (packages / ".lock").unlink(missing_ok=True)
        return packages

    async def _uv(self, arguments: Sequence[str], bounds: Bounds, say: Say) -> str:
        command = [uv.find_uv_bin(), "pip", "install", *arguments, *self._options()]
        group = self._cgroups.take(Limits(cpu=1.0, mem_bytes=self.rules.mem_bytes, tmp_bytes=0, pids=_PIDS))

        def hear(line: str) -> None:
            if progress := progress_of(line):
                say(progress)

        try:
            ended = await run_confined(
                command,
                self._confinement(bounds.folder),
                self._variables(bounds.folder),
                group=group,
                bounds=bounds,
                hear=hear,
            )
        finally:
            await asyncio.to_thread(group.remove)
        if ended.exit_code or ended.early:
            raise DependencyError(self._explain(ended))
        return ended.output

    def _options(self) -> list[str]:
        rules = self.rules
        links = [option for place in rules.find_links for option in ("--find-links", place)]
        wheels = [] if rules.sources else ["--no-build"]
        return ["--no-progress", *wheels, *(["--no-index"] if rules.no_index else []), *links]

    def _variables(self, folder: Path) -> dict[str, str]:
        # A layer is never changed, so its files may be those of a shared cache.
        cache = self._shared_cache or folder / "cache"
        own = {"UV_CACHE_DIR": str(cache), "TMPDIR": str(folder / "tmp"), "LANG": "C.UTF-8", "NO_COLOR": "1"}
        return {**self._environment, **own}

    def _confinement(self, folder: Path) -> Confinement:
        writable = [str(folder), *([str(self._shared_cache)] if self._shared_cache else [])]
        readable = None
        if self.rules.sources:
            home = self._environment.get("XDG_CONFIG_HOME") or self._environment.get("HOME", "") + "/.config"
            places = [link.removeprefix("file://") for link in self.rules.find_links]
            readable = (*(place for place in places if place.startswith("/")), "/etc/uv", "/etc/xdg/uv", home + "/uv")
        return Confinement(os.getpid(), readable, str(self._hidden), tuple(writable), self.rules.layer_bytes, ())

    def _explain(self, ended: Ended) -> str:
        rules = self.rules
        match ended.early:
            case "time":
                return f"It took longer than the {rules.time_limit_s:g} s that a build may take on this worker."
            case "size":
                return f"It is larger than the {rules.layer_bytes / _MIB:,.0f} MiB that one may be on this worker."
            case "memory":
                return f"It needs more than the {rules.mem_bytes / _MIB:,.0f} MiB of memory that a build may use."
            case _:
                text = failure_of(ended.output) or f"uv ended with exit code {ended.exit_code} and said nothing."
                return text + _NO_SOURCES if _WHEELS_ONLY in text else text


def _summary(plan: Plan) -> str:
    more = f" and {len(plan.lines) - _LISTED} more" if len(plan.lines) > _LISTED else ""
    count = "1 package" if len(plan.lines) == 1 else f"{len(plan.lines)} packages"
    text = f"{count}: {', '.join(plan.lines[:_LISTED])}{more}"
    if plan.replaced:
        text += f"; instead of the worker's own {', '.join(plan.replaced)}"
    return text
