"""A preloaded interpreter, held by the agent, from which sandboxes are forked."""

import asyncio
import contextlib
import functools
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from qonduit_worker.sandbox import proctree, slots
from qonduit_worker.sandbox.cgroup_tree import CgroupTree
from qonduit_worker.sandbox.cgroups import Cgroup
from qonduit_worker.sandbox.errors import SandboxStartError, ZygoteDiedError, ZygoteStartError
from qonduit_worker.sandbox.metering import Meter
from qonduit_worker.sandbox.model import InsidePaths, SandboxSpec, Tier
from qonduit_worker.sandbox.sandboxed import Parts, Sandboxed, discard, open_output, pid_of
from qonduit_worker.sandbox.watchdog import Watchdog
from qonduit_worker.shielding import to_its_end
from qonduit_worker.zygote import layout, wire

_START_TIMEOUT_S: Final = 120.0
_FORK_TIMEOUT_S: Final = 120.0
"""A sandbox takes milliseconds; one that is not there by now never will be, even on a busy machine."""
_PASSABLE: Final = 0o711
# One thread in every library that would start a pool: children of a process that used one hang.
_ENVIRONMENT: Final = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",  # noqa: S108 - the sandbox's own.
    "LANG": "C.UTF-8",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",  # See the environment of programs, which begin in here.
    "RAYON_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "QISKIT_PARALLEL": "FALSE",
    "QISKIT_NUM_PROCS": "1",
}


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """What all zygotes of one worker have in common.

    Attributes:
        state_dir: The worker's own folder; names its control groups, and looks empty to programs.
        tier: How sandboxes are confined; what `probe` found, or less.
        python_path: More folders of Python sources that zygotes import from and programs may read.
        hidden: More folders that look empty to programs even where an interpreter's folder holds them.
    """

    state_dir: Path
    tier: Tier
    python_path: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()


class Zygote:
    """One preloaded interpreter process. Start it, fork from it, stop it; in this order again if it died.

    Args:
        config: What this worker's zygotes have in common.
        cgroups: The worker's control groups, prepared.
        preload: Modules to import once.
        warm: `module:function`, called once after importing.
        base: A zygote to fork this one from, so that both share the memory of what that one has imported; it is
            started when it does not run. This one dies with it.
    """

    def __init__(
        self,
        *,
        config: SandboxConfig,
        cgroups: CgroupTree,
        preload: Sequence[str] = (),
        warm: str | None = None,
        base: "Zygote | None" = None,
    ) -> None:
        self.pid = 0
        self.imported: frozenset[str] = frozenset()
        """The installed modules that programs find imported, outermost names only; known once it has started."""
        self._config = config
        self._cgroups = cgroups
        self._preload = tuple(preload)
        self._warm = warm
        self._base = base
        self._starting = asyncio.Lock()
        self._reaping = asyncio.Lock()
        self._channel: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._pidfd = -1
        self._died = asyncio.Event()
        self._sandboxes: dict[str, Sandboxed] = {}
        self._hastening: set[asyncio.Future[None]] = set()
        self._inherited_bytes = 0
        self._watchdog = Watchdog()

    @property
    def running(self) -> bool:
        """Whether it can fork now."""
        return self._channel is not None

    async def died(self) -> None:
        """Wait until the process that was started is gone, for whatever reason."""
        await self._died.wait()

    def inside(self, directory: Path, layer: Path | None = None) -> InsidePaths:
        """Where programs in a sandbox with this folder, and maybe a layer, find their own folders."""
        return InsidePaths.of(self._config.tier, directory, layer)

    async def start(self) -> None:
        """Start the process and wait until it has loaded everything; does nothing when it runs.

        Raises:
            ZygoteStartError: It could not; the text has its traceback.
        """
        if self.running:
            return
        closed = layout.closed_folder(self._config.state_dir) if self._config.tier == "B" else None
        if closed is not None:
            raise ZygoteStartError(f"In tier B the users of sandboxes must be able to enter {closed}: chmod o+x it.")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                if self._base is None:
                    self._process = await self._spawn(theirs)
                else:
                    await self._base.fork_zygote(theirs, self._warm)
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)  # noqa: FBT003 - the standard library's signature.
        self._died = asyncio.Event()
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await self._greet(ours)
        except BaseException as error:
            ours.close()
            await self._reap()
            if isinstance(error, TimeoutError):
                raise ZygoteStartError(f"The zygote was not ready after {_START_TIMEOUT_S:.0f} s.") from None
            raise
        self._channel = ours
        self._inherited_bytes = proctree.anonymous_bytes(self.pid)
        asyncio.get_running_loop().add_reader(ours.fileno(), self._lost)

    async def fork_zygote(self, channel: socket.socket, warm: str | None) -> None:
        """Have a zygote forked that serves orders on `channel`; starts this one first when it does not run.

        Raises:
            ZygoteStartError: This one could not be started, or died.
        """
        async with self._starting:
            if not self.running:
                await self.stop()
                await self.start()
        try:
            wire.send(self._open_channel(), "zygote", descriptors=(channel.fileno(),), warm=warm)
        except (OSError, ZygoteDiedError):
            self._lost()
            raise ZygoteStartError("The zygote to fork from died.") from None

    async def _spawn(self, theirs: socket.socket) -> asyncio.subprocess.Process:
        config = self._config
        start = wire.Start(
            parent=os.getpid(),
            tier=config.tier,
            preload=self._preload,
            warm=self._warm,
            python_path=tuple(map(str, config.python_path)),
            hidden=(str(config.state_dir.absolute()), *map(str, config.hidden)),
        )
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "qonduit_worker.zygote",
            str(theirs.fileno()),
            start.dumps(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )

    async def _greet(self, channel: socket.socket) -> None:
        while True:
            message = await _next_message(channel)
            if message is None:
                raise ZygoteStartError("The zygote ended before it was ready.")
            fields, descriptors = message
            if fields["kind"] == "hello":
                (self._pidfd,) = descriptors
                self.pid = pid_of(self._pidfd)
            elif fields["kind"] == "failed":
                raise ZygoteStartError(f"The zygote could not start:\n{fields['text']}")
            else:
                self.imported = frozenset(fields["modules"])
                return

    def _lost(self) -> None:
        """The socket has something to read though a running zygote says nothing: it is dead."""
        self._close_channel()
        # The kernel ends what lived in its namespaces; without them each is asked to, and told to be quick.
        for sandbox in list(self._sandboxes.values()):
            sandbox.kill()
        self._died.set()

    def _give_up(self, sandbox: Sandboxed) -> None:
        """End a sandbox that does not become ready, and a zygote that does not even fork it."""
        sandbox.kill()
        sandbox.close_output()
        if not sandbox.pid and self.running:
            with contextlib.suppress(ProcessLookupError):  # It has just died by itself.
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._lost()

    def _open_channel(self) -> socket.socket:
        if self._channel is None:
            raise ZygoteDiedError("The zygote is not running.")
        return self._channel

    def _close_channel(self) -> None:
        if self._channel is not None:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._channel.close()
            self._channel = None

    async def stop(self) -> None:
        """End the zygote and every sandbox forked from it, and wait until they are gone; safe to repeat."""
        self._close_channel()
        left = list(self._sandboxes.values())
        for sandbox in left:
            sandbox.kill()
        await asyncio.gather(*(sandbox.wait() for sandbox in left), return_exceptions=True)
        for sandbox in left:
            sandbox.close_output()
        await asyncio.gather(*self._hastening, self._watchdog.stop(), return_exceptions=True)
        await self._reap()
        self._died.set()

    async def _reap(self) -> None:
        async with self._reaping:
            if self._pidfd >= 0:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                await _readable(self._pidfd)
                os.close(self._pidfd)
                self._pidfd = -1
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()
                self._process = None

    async def fork(self, spec: SandboxSpec) -> Sandboxed:
        """Make a sandbox; returns when its program is about to begin.

        Raises:
            ZygoteDiedError: The zygote is not running.
            SandboxStartError: The sandbox could not be set up.
            OSError: The host refused a control group or a folder.
        """
        self._open_channel()
        hastening = asyncio.ensure_future(asyncio.to_thread(self._cgroups.hasten))
        self._hastening.add(hastening)
        hastening.add_done_callback(self._hastening.discard)
        slot = slots.reserve()
        group: Cgroup | None = None
        try:
            group = self._cgroups.take(spec.limits)
            await to_its_end(asyncio.to_thread(self._prepare, spec, slot))
            sandbox = await self._order(spec, group, slot)
        except BaseException:
            if group is not None:
                await discard(group)
            if slot is not None:
                slot.release()
            raise
        try:
            async with asyncio.timeout(_FORK_TIMEOUT_S):
                await sandbox.started()
        except TimeoutError:
            self._give_up(sandbox)
            raise SandboxStartError(f"Sandbox {spec.sandbox_id} was not ready after {_FORK_TIMEOUT_S:.0f} s.") from None
        except SandboxStartError:
            await sandbox.wait()
            sandbox.close_output()
            if not self.running:
                raise ZygoteDiedError("The zygote died while it was forking.") from None
            raise
        except BaseException:
            # Whoever asked for it has gone away.
            sandbox.kill()
            sandbox.close_output()
            raise
        return sandbox

    def _prepare(self, spec: SandboxSpec, slot: slots.Slot | None) -> None:
        if self._config.tier != "A":
            (spec.directory / "tmp").mkdir(exist_ok=True)
            # There is no other tree than this one, so the way to its folders must be open to the sandbox's user.
            spec.directory.chmod(_PASSABLE)
        if slot is not None:
            for name in ("job", "data", "run", "tmp"):
                if (spec.directory / name).is_dir():
                    slots.hand_over(str(spec.directory / name), slot.uid)

    async def _order(self, spec: SandboxSpec, group: Cgroup, slot: slots.Slot | None) -> Sandboxed:
        channel = self._open_channel()
        output, write_end = await open_output()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener = None if self._config.tier == "A" else _host_listener()
        parts = Parts(
            control=ours,
            output=output,
            cgroup=group,
            meter=Meter(group, self._inherited_bytes),
            listener=listener,
            mem_bytes=spec.limits.mem_bytes,
            watchdog=None if self._cgroups.limits_memory else self._watchdog,
            free=functools.partial(self._ended, spec.sandbox_id, slot),
        )
        sandbox = Sandboxed(spec.sandbox_id, parts)
        self._sandboxes[spec.sandbox_id] = sandbox
        memory = self._written(spec, slot, listener).to_memory()
        procs = group.open_procs()
        try:
            wire.send(channel, "fork", descriptors=(memory, theirs.fileno(), write_end, *procs))
        except OSError:
            self._lost()  # The sandbox learns it too, from the closed end of its control socket.
        finally:
            theirs.close()
            for descriptor in (memory, write_end, *procs):
                os.close(descriptor)
        return sandbox

    def _ended(self, sandbox_id: str, slot: slots.Slot | None) -> None:
        self._sandboxes.pop(sandbox_id, None)
        if slot is not None:
            slot.release()

    def _written(self, spec: SandboxSpec, slot: slots.Slot | None, listener: socket.socket | None) -> wire.Order:
        directory = spec.directory.absolute()
        return wire.Order(
            sandbox_id=spec.sandbox_id,
            job=str(directory / "job"),
            data=str(directory / "data"),
            run=str(directory / "run"),
            tmp=str(directory / "tmp"),
            tmp_bytes=spec.limits.tmp_bytes,
            file_bytes=spec.limits.file_bytes,
            pids=spec.limits.pids,
            uid=slot.uid if slot is not None else None,
            port=listener.getsockname()[1] if listener is not None else None,
            environment=dict(spec.environment),
            entry=spec.entry,
            gives_way=not self._cgroups.weighs_cpu,
            layer=str(spec.layer.absolute()) if spec.layer is not None else None,
        )


async def _next_message(channel: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    await _readable(channel.fileno())
    return wire.receive(channel)


async def _readable(descriptor: int) -> None:
    """Wait until there is something to read; of a pidfd, until its process is gone."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, _resolve, readable)
    try:
        await readable
    finally:
        loop.remove_reader(descriptor)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _host_listener() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    listener.setblocking(False)  # noqa: FBT003
    return listener
