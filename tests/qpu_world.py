"""The QPU broker and storage as processes on a real RabbitMQ, and endpoints on loopback for real client programs."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.request
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 -- a field of a dataclass.
from typing import TYPE_CHECKING, Any

import psutil
from qonduit_qpu_broker.payloads import Payloads
from qonduit_service_kit.bus import Bus, worker_inbox
from qonduit_service_kit.messages import QPU_BROKER, ProgramEnded, QpuReply, QpuTransition
from qonduit_service_kit.testing import halt
from qonduit_service_kit.tickets import TicketSigner, load_or_create_key
from qonduit_worker.environment import STEADY
from qonduit_worker.qpu_endpoint import DeviceCache, ProgramContext, QpuEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qonduit_service_kit.bus import Delivery
    from qonduit_service_kit.testing import PrivateBroker
    from qonduit_worker.qpu_endpoint.job_routes import JobWords

START_TIMEOUT_S = 120.0
PROGRAM_TIMEOUT_S = 400.0
SLOW = """
ROW = [*range(14, -1, -1), 15, *range(19, 19 + MORE)]
slow = QuantumCircuit(133)
for _ in range(12):
    for qubit in ROW:
        slow.rz(0.1, qubit)
        slow.sx(qubit)
    for pair in zip(ROW, ROW[1:]):
        slow.cz(*pair)
slow.add_register(ClassicalRegister(len(ROW), "meas"))
slow.measure(ROW, range(len(ROW)))
"""
"""A program's circuit for ibm_torino that takes long to simulate, the longer the more qubits `MORE` adds."""


@dataclass
class Service:
    """One service as a process."""

    name: str
    folder: Path
    settings: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    ready: dict[str, int] = field(default_factory=dict)

    def start(self) -> None:
        """Start it and wait until it says that it serves."""
        prefix = f"QONDUIT_{self.name.upper()}_"
        ready_file = self.folder / f"{self.name}.ready"
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            **self.environment,
            **{prefix + name.upper(): value for name, value in self.settings.items()},
            prefix + "READY_FILE": str(ready_file),
            prefix + "DATA_DIR": str(self.folder / self.name),
            prefix + "INTERNAL_KEY_FILE": str(self.folder / "internal.key"),
        }
        ready_file.unlink(missing_ok=True)
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"qonduit_{self.name}"], env=environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready_file.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.name} did not start:\n{self.log()}")
            time.sleep(0.02)
        self.ready = json.loads(ready_file.read_text())

    def kill(self) -> None:
        """End it as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        """Stop it in order."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(START_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()
                raise

    def log(self) -> str:
        """Return the end of its log."""
        return (self.folder / f"{self.name}.log").read_text()[-6000:]

    def metrics(self) -> str:
        """Return what it serves as metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ready['metrics_port']}/metrics") as answer:
            text: str = answer.read().decode()
        return text


@dataclass
class Services:
    """Storage and the QPU broker on a vhost of their own."""

    url: str
    folder: Path
    storage: Service
    qpu_broker: Service

    def stop(self) -> None:
        """Stop both."""
        self.qpu_broker.stop()
        self.storage.stop()

    @contextmanager
    def held_simulator(self) -> Iterator[None]:
        """Let no simulation go on: what runs keeps running until it is cancelled, or the block ends."""
        assert self.qpu_broker.process is not None
        simulators = psutil.Process(self.qpu_broker.process.pid).children()
        assert simulators, "no QPU job ran yet"
        for simulator in simulators:
            halt(simulator.pid)
        try:
            yield
        finally:
            for simulator in simulators:
                with suppress(psutil.NoSuchProcess):  # It ended with the job that it ran.
                    simulator.resume()

    def ledger(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the broker's ledger."""
        connection = sqlite3.connect(f"file:{self.folder / 'qpu_broker' / 'ledger.sqlite3'}?mode=ro", uri=True)
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()


def start_services(
    broker: PrivateBroker, folder: Path, environment: dict[str, str] | None = None, **settings: str
) -> Services:
    """Start storage and a QPU broker, with more in its environment, on a new vhost."""
    url = broker.vhost_url(f"qpu-{uuid.uuid4().hex[:8]}")
    storage = Service("storage", folder, {})
    storage.start()
    address = f"127.0.0.1:{storage.ready['grpc_port']}"
    qpu_broker = Service(
        "qpu_broker",
        folder,
        {"amqp_url": url, "storage_address": address, "queue_delay_s": "0.1"} | settings,
        environment or {},
    )
    qpu_broker.start()
    return Services(url, folder, storage, qpu_broker)


class StoredBlobs:
    """A job's blobs, in the real storage service."""

    def __init__(self, payloads: Payloads, folder: Path) -> None:
        self._payloads = payloads
        self._folder = folder

    def new_part(self) -> Path:
        """Return a name for a file."""
        return self._folder / f"{uuid.uuid4().hex}.part"

    async def put_file(self, digest: str, part: Path) -> None:
        """Store a file."""
        assert await self._payloads.put(await asyncio.to_thread(part.read_bytes)) == digest

    async def open(self, digest: str) -> int:
        """Return a descriptor."""
        with tempfile.TemporaryFile() as file:
            file.write(await self.get(digest))
            file.seek(0)
            return os.dup(file.fileno())

    async def get(self, digest: str) -> bytes:
        """Return bytes."""
        return await self._payloads.get(digest, max_bytes=1 << 30)


@dataclass
class Finished:
    """A program that ended."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> Any:
        """What the program printed last, as JSON."""
        assert self.code == 0, self.err
        return json.loads(self.out.strip().splitlines()[-1])


@dataclass
class Sandbox:
    """One attempt of a job: its endpoint, and what it was told."""

    endpoint: QpuEndpoint
    context: ProgramContext
    folder: Path
    transitions: list[QpuTransition] = field(default_factory=list)
    stepped: asyncio.Event = field(default_factory=asyncio.Event)

    async def heard(self, transition: QpuTransition) -> None:
        """Be told of a transition."""
        self.transitions.append(transition)
        self.stepped.set()

    def steps(self) -> dict[str, list[tuple[int, str]]]:
        """Return each QPU job's steps, as they came."""
        found: dict[str, list[tuple[int, str]]] = {}
        for step in self.transitions:
            found.setdefault(step.qpu_job_id, []).append((step.sequence, step.state.value))
        return found

    async def until(self, state: str, qpu_job_id: str = "") -> QpuTransition:
        """Return the first transition to a state, of any QPU job or of one, once it came."""
        async with asyncio.timeout(PROGRAM_TIMEOUT_S):
            while True:
                for step in self.transitions:
                    if step.state.value == state and qpu_job_id in {"", step.qpu_job_id}:
                        return step
                self.stepped.clear()
                await self.stepped.wait()

    async def over(self, jobs: int = 1) -> None:
        """Return once the last step of so many QPU jobs was heard, which may be after their program saw it."""
        async with asyncio.timeout(PROGRAM_TIMEOUT_S):
            while sum(step.state.final for step in self.transitions) < jobs:
                self.stepped.clear()
                await self.stepped.wait()

    async def start(
        self, script: str, *, python: str = sys.executable, as_driver: bool = False, **more: str
    ) -> asyncio.subprocess.Process:
        """Start a program with nothing but its environment and `more`; as a driver: in the real runner."""
        path = self.folder / f"program-{uuid.uuid4().hex[:6]}.py"
        path.write_text(textwrap.dedent(script))
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **STEADY}
        environment |= self.endpoint.environment() | more
        command = [str(path)]
        if as_driver:
            environment |= {"QONDUIT_JOB_FOLDER": str(self.folder), "QONDUIT_ENTRYPOINT": path.name}
            command = ["-c", "from qonduit.program.runner import run_driver; run_driver()"]
        return await asyncio.create_subprocess_exec(
            python, *([] if "PYTHONWARNINGS" in more else ["-W", "ignore"]), *command,
            env=environment, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def run(self, script: str, *, python: str = sys.executable, as_driver: bool = False, **more: str) -> Finished:
        """Run a program to its end."""
        return await finish(await self.start(script, python=python, as_driver=as_driver, **more))


async def finish(program: asyncio.subprocess.Process) -> Finished:
    """Wait for a program's end; one that takes too long is ended and fails the test."""
    try:
        async with asyncio.timeout(PROGRAM_TIMEOUT_S):
            out, err = await program.communicate()
    except TimeoutError:
        program.kill()
        out, err = await program.communicate()
        raise AssertionError(f"the program did not end:\n{out.decode()}\n{err.decode()}") from None
    return Finished(program.returncode or 0, out.decode(), err.decode())


class Worker:
    """What an agent does for its sandboxes: one inbox, and an endpoint each."""

    def __init__(self, services: Services, folder: Path) -> None:
        self.worker_id = f"w-{uuid.uuid4().hex[:8]}"
        self.bus = Bus(services.url, app_id=f"worker/{self.worker_id}")
        key = load_or_create_key(services.folder / "internal.key")
        self._payloads = Payloads(f"127.0.0.1:{services.storage.ready['grpc_port']}", TicketSigner(key))
        self._devices = DeviceCache()
        self._folder = folder
        self.sandboxes: list[Sandbox] = []

    async def start(self) -> None:
        """Listen to the inbox."""
        await self._payloads.start()
        await self.bus.start()
        await self.bus.consume(worker_inbox(self.worker_id), self._handle)

    async def stop(self) -> None:
        """End all endpoints."""
        for sandbox in self.sandboxes:
            await sandbox.endpoint.stop()
        await self.bus.delete(worker_inbox(self.worker_id))
        await self.bus.stop()
        await self._payloads.stop()

    async def _handle(self, delivery: Delivery) -> None:
        for sandbox in self.sandboxes:
            if isinstance(delivery.message, QpuReply):
                sandbox.endpoint.handle_reply(delivery.message)
            elif isinstance(delivery.message, QpuTransition):
                await sandbox.endpoint.handle_transition(delivery.message)

    async def sandbox(
        self,
        job_id: str = "",
        *,
        attempt: int = 1,
        user: str = "ada",
        words: JobWords | None = None,
        **budgets: float,
    ) -> Sandbox:
        """Return a new sandbox's endpoint, serving on loopback."""
        listener = socket.create_server(("127.0.0.1", 0))
        context = ProgramContext(job_id or f"job-{uuid.uuid4().hex[:8]}", attempt, user, self.worker_id, **budgets)
        blobs = StoredBlobs(self._payloads, self._folder)
        made: list[Sandbox] = []
        endpoint = QpuEndpoint(
            port=listener.getsockname()[1],
            bus=self.bus,
            blobs=blobs,
            context=context,
            devices=self._devices,
            on_transition=lambda step: made[0].heard(step),  # noqa: PLW0108 -- it is made after the endpoint.
            words=words,
        )
        made.append(Sandbox(endpoint, context, self._folder))
        self.sandboxes.append(made[0])
        await endpoint.start(listener)
        return made[0]

    async def end(self, sandbox: Sandbox) -> None:
        """Tell the broker that an attempt is over."""
        await self.bus.publish(QPU_BROKER, ProgramEnded(sandbox.context.job_id, sandbox.context.attempt))
