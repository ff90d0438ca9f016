"""Start and stop of a service: parts in order, signals, time limits, exit codes, the ready file."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from pydantic import ValidationError

from qonduit_service_kit import logs
from qonduit_service_kit.metrics import MetricsServer, build_info
from qonduit_service_kit.tracing import TracingPart

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from pathlib import Path

    from qonduit_service_kit.settings import ServiceSettings

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 15.0
WRONG_SETTINGS = 2
"""Exit code that tells a supervisor that another start would end in the same way."""
_log = logs.get_logger("lifecycle")
Settings = TypeVar("Settings", bound="ServiceSettings")


class Part(Protocol):
    """Something that runs while the service does. May have `ports: Mapping[str, int]` for the ready file."""

    async def start(self) -> None:
        """Return once it works; raise if it cannot."""

    async def stop(self) -> None:
        """End and give everything back; safe to call twice, and without a start."""


@runtime_checkable
class Watched(Protocol):
    """A part whose failure ends the service."""

    async def failure(self) -> BaseException:
        """Return the error once the part has failed; never while it works."""


class Background:
    """A coroutine that runs for as long as the service; if it ends or raises, the service stops."""

    def __init__(self, work: Callable[[], Coroutine[object, object, None]], *, name: str = "") -> None:
        self._work = work
        self._name = name or getattr(work, "__qualname__", "background")
        self._task: asyncio.Task[None] | None = None
        self._failed: asyncio.Future[BaseException] | None = None

    async def start(self) -> None:
        """Begin to run."""
        self._failed = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._work(), name=self._name)
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._failed is not None and not self._failed.done() and not task.cancelled():
            self._failed.set_result(task.exception() or RuntimeError(f"{self._name} ended by itself"))

    async def stop(self) -> None:
        """Cancel it and wait for its end."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def failure(self) -> BaseException:
        """Return what ended it."""
        if self._failed is None:
            raise RuntimeError(f"{self._name} was not started")
        return await asyncio.shield(self._failed)


class Periodic:
    """Runs a function every so many seconds; what it raises is logged, and the next round comes all the same."""

    def __init__(self, interval_s: float, func: Callable[[], Awaitable[None]], *, name: str = "") -> None:
        self._interval_s = interval_s
        self._func = func
        self._name = name or getattr(func, "__qualname__", "periodic")
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; the first round comes after one interval."""
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def stop(self) -> None:
        """Cancel it and wait for its end."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self._func()
            except Exception:  # noqa: BLE001 - a round that fails must not be the last one.
                _log.exception("periodic work failed", name=self._name)


async def run_service(name: str, settings: ServiceSettings, build: Callable[[], Awaitable[Sequence[Part]]]) -> int:
    """Run a service until a signal or a failed part, and return the exit code: 0 after a signal, else 1.

    Parts start in order and stop in reverse. /metrics is served, and traces are sent, without parts for it.
    """
    signalled = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled.set)
    _log.info("starting", **settings.describe())
    build_info(name)
    started: list[Part] = []
    code = 0
    try:
        if not await _start_all(name, settings, build, started, signalled):
            return 0
        _give_back_memory()
        _write_ready(settings.ready_file, started)
        _log.info("serving", **_ports(started))
        failed = await _first_of(signalled, started)
        if failed is not None:
            _log.error("stopping, because a part failed", exc_info=failed)
            code = 1
        else:
            _log.info("stopping")
    except Exception as error:  # noqa: BLE001 - whatever keeps a service from starting is told in one line, then in full.
        _log.exception("cannot start", reason=str(error))
        code = 1
    finally:
        if settings.ready_file is not None:
            settings.ready_file.unlink(missing_ok=True)
        await _stop_all(started)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    _log.info("stopped")
    return code


async def _start_all(
    name: str,
    settings: ServiceSettings,
    build: Callable[[], Awaitable[Sequence[Part]]],
    started: list[Part],
    signalled: asyncio.Event,
) -> bool:
    """Start the parts; return False if a signal came first."""
    parts = list(await build())
    if not any(isinstance(part, MetricsServer) for part in parts):
        parts.insert(0, MetricsServer(settings.metrics_host, settings.metrics_port))
    parts.insert(0, TracingPart(name, settings.otlp_endpoint, settings.trace_ratio))
    for part in parts:
        started.append(part)
        starting = asyncio.ensure_future(part.start())
        stopping = asyncio.ensure_future(signalled.wait())
        await asyncio.wait([starting, stopping], timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
            if signalled.is_set():
                return False
            raise TimeoutError(f"{type(part).__name__} of {name} did not start within {START_TIMEOUT_S:.0f} s")
        starting.result()
    return True


async def _first_of(signalled: asyncio.Event, parts: Sequence[Part]) -> BaseException | None:
    """Wait for a signal (None) or the first part that fails (its error)."""
    stopping = asyncio.ensure_future(signalled.wait())
    watching = [asyncio.ensure_future(part.failure()) for part in parts if isinstance(part, Watched)]
    try:
        done, _ = await asyncio.wait([stopping, *watching], return_when=asyncio.FIRST_COMPLETED)
        return next((watch.result() for watch in watching if watch in done), None)
    finally:
        for future in (stopping, *watching):
            future.cancel()


async def _stop_all(parts: Sequence[Part]) -> None:
    for part in reversed(parts):
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await part.stop()
        except TimeoutError:
            _log.error("a part did not stop in time", part=type(part).__name__, seconds=STOP_TIMEOUT_S)
        except Exception:  # noqa: BLE001 - the other parts must still be stopped.
            _log.exception("a part failed to stop", part=type(part).__name__)


def _give_back_memory() -> None:
    """Return to the system what only the start needed; the GNU C library keeps it unless it is told."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _ports(parts: Sequence[Part]) -> dict[str, int]:
    ports: dict[str, int] = {}
    for part in parts:
        ports |= getattr(part, "ports", {})
    return ports


def _write_ready(path: Path | None, parts: Sequence[Part]) -> None:
    """Tell a supervisor that the service serves, and where; a reader sees all of it or nothing."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"pid": os.getpid(), **_ports(parts)}))
    temporary.replace(path)


def main(name: str, settings_type: type[Settings], build: Callable[[Settings], Awaitable[Sequence[Part]]]) -> None:
    """Be the `__main__` of a service: read the settings, run, and exit; with 2 if the settings are wrong."""
    try:
        settings = settings_type()
    except ValidationError as error:
        prefix = settings_type.model_config.get("env_prefix", "")
        for problem in error.errors():
            field = "_".join(str(part) for part in problem["loc"]).upper()
            sys.stderr.write(f"{name}: setting {prefix}{field}: {problem['msg']}\n")
        sys.exit(WRONG_SETTINGS)
    except FileNotFoundError as error:
        sys.stderr.write(f"{name}: {error}\n")
        sys.exit(WRONG_SETTINGS)
    logs.configure(name, settings.log_format, settings.log_level)
    for unknown in settings_type.unknown_names():
        _log.warning("no such setting: is the name right?", name=unknown)
    sys.exit(asyncio.run(run_service(name, settings, lambda: build(settings))))
