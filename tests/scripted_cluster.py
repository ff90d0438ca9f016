"""A worker under test: its process and storage's are real, gateway, scheduler and QPU broker are played by the test."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import time
import urllib.request
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from qonduit.stack.rabbitmq import free_port
from qonduit_service_kit import spaces
from qonduit_service_kit.bus import GATEWAY_INBOX, QPU_INBOX, SCHEDULER_INBOX, Bus, Delivery
from qonduit_service_kit.messages import (
    DriverGranted,
    EventKind,
    ExecutorGranted,
    JobEvent,
    JobSpec,
    LeaseEnded,
    Shape,
    TaskDemand,
    WorkerHeartbeat,
    worker,
)
from qonduit_service_kit.rpc import channel
from qonduit_service_kit.tickets import Ticket, TicketSigner, load_or_create_key
from qonduit_worker.storage import Storage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    import grpc

Message = TypeVar("Message")

PATIENCE_S = 120.0
MIB = 1024**2


@dataclass
class ServiceProcess:
    """One service as a process of its own."""

    module: str
    folder: Path
    settings: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def ready_file(self) -> Path:
        return self.folder / f"{self.module}.ready.json"

    async def start(self) -> dict[str, Any]:
        """Start it; return what its ready file says."""
        self.ready_file.unlink(missing_ok=True)
        prefix = f"QONDUIT_{self.module.removeprefix('qonduit_').upper()}_"
        settings = {"DATA_DIR": str(self.folder / self.module), "READY_FILE": str(self.ready_file), **self.settings}
        own = {prefix + name: value for name, value in settings.items()}
        log = (self.folder / f"{self.module}.log").open("ab")
        with log:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - It takes a moment, and outlives this call.
                [sys.executable, "-m", self.module], env={**os.environ, **own}, stdout=log, stderr=log
            )
        deadline = time.monotonic() + PATIENCE_S
        while not self.ready_file.exists():
            assert self.process.poll() is None, f"{self.module} ended: {self.log()}"
            assert time.monotonic() < deadline, f"{self.module} is not ready: {self.log()}"
            await asyncio.sleep(0.02)
        ready: dict[str, Any] = json.loads(self.ready_file.read_text())
        return ready

    def log(self) -> str:
        return (self.folder / f"{self.module}.log").read_text()[-8000:]

    def stop(self) -> int | None:
        if self.process is None:
            return None
        self.process.terminate()
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE_S)


@dataclass
class Job:
    """One attempt as the test granted it, and its events so far."""

    spec: JobSpec
    lease_id: str
    cluster: ScriptedCluster
    granted_at: float = field(default_factory=time.monotonic)

    @property
    def events(self) -> list[JobEvent]:
        found = {
            event.sequence: event
            for event in self.cluster.of(JobEvent)
            if (event.job_id, event.attempt) == (self.spec.job_id, self.spec.attempt)
        }
        return [found[number] for number in sorted(found)]

    async def reached(self, kind: EventKind) -> JobEvent:
        """Wait for the first event of a kind."""
        return await self.cluster.until(
            lambda: next((event for event in self.events if event.kind is kind), None), f"{kind} of a job"
        )

    async def finished(self) -> JobEvent:
        """Wait for the end."""
        return await self.reached(EventKind.FINISHED)

    async def lease_ended(self) -> LeaseEnded:
        return await self.cluster.until(
            lambda: next((end for end in self.cluster.of(LeaseEnded) if end.lease_id == self.lease_id), None),
            "the end of a lease",
        )

    async def result(self) -> Any:
        """Wait for DONE and return the result, as JSON."""
        end = await self.finished()
        assert end.reason.value == "NONE", end.text
        return json.loads(await self.cluster.blob(end.result_digest)) if end.result_digest else None

    async def grant_executors(
        self, count: int, *, on: str = "", first: int = 0, dependencies: tuple[str, ...] | None = None
    ) -> list[str]:
        """Grant executors as a scheduler does on demand, numbered from `first`, here or on another worker."""
        demand = await self.cluster.until(
            lambda: next((demand for demand in self.cluster.of(TaskDemand) if demand.job_id == self.spec.job_id), None),
            "demand",
        )
        leases = [f"{self.lease_id}{on}-{number}" for number in range(first, first + count)]
        for lease_id in leases:
            await self.cluster.bus.publish(
                worker(on or self.cluster.worker_id),
                ExecutorGranted(
                    term=self.cluster.term,
                    lease_id=lease_id,
                    job_id=demand.job_id,
                    attempt=demand.attempt,
                    user=demand.user,
                    shape=demand.shape,
                    driver_worker_id=demand.worker_id,
                    storage_ticket=demand.storage_ticket,
                    environment=demand.environment,
                    artifact_digest=demand.artifact_digest,
                    dependencies=demand.dependencies if dependencies is None else dependencies,
                    space=demand.space,
                    provider_space=demand.provider_space,
                ),
            )
        return leases

    async def log(self) -> str:
        """Return the log as it is now."""
        return await self.cluster.read_log(self.spec.job_id)

    async def both_logs(self) -> tuple[str, str]:
        """Return the user's log and the provider's, once both are closed."""
        read = self.cluster.read_log
        user, provider = self.spec.job_id, spaces.provider_log(self.spec.job_id)
        return await read(user, follow=True), await read(provider, follow=True)

    async def logged(self, text: str) -> None:
        """Wait until the log holds a text."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in (log := await self.log()):
            over = [event.text for event in self.events if event.kind is EventKind.FINISHED]
            assert not over, f"the job ended without {text!r} in its log: {log[-2000:]} {over}"
            assert time.monotonic() < deadline, f"{text!r} is not in the log: {log[-2000:]}"
            await asyncio.sleep(0.02)


class ScriptedCluster:
    """Storage, a worker, a bus, and everything that was said on it."""

    def __init__(self, bus_url: str, folder: Path, **worker_settings: str) -> None:
        self.folder = folder
        self.key_file = folder / "key"
        self.signer = TicketSigner(load_or_create_key(self.key_file))
        self.worker_id = f"w-{uuid.uuid4().hex[:8]}"
        self.bus = Bus(bus_url, app_id="test")
        # No port that the system could give to somebody else while storage is away.
        storage = {"INTERNAL_KEY_FILE": str(self.key_file), "LISTEN_PORT": str(free_port())}
        self.storage = ServiceProcess("qonduit_storage", folder, storage)
        self.worker = ServiceProcess(
            "qonduit_worker",
            folder,
            {
                "AMQP_URL": bus_url,
                "WORKER_ID": self.worker_id,
                "HEARTBEAT_S": "0.5",
                "ALLOW_WEAKER_SANDBOX": "true",
                "PRELOAD": '["qonduit.program.runner"]',
                "WARM": "false",
                "LOG_PATIENCE_S": str(PATIENCE_S),  # At a job's end its log is whole, however busy storage is.
                **worker_settings,
            },
        )
        self.others: dict[str, ServiceProcess] = {}
        """Further workers by name."""
        self.messages: list[object] = []
        self._news = asyncio.Condition()
        self._channel: grpc.aio.Channel | None = None
        self.term = 1

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, bus_url: str, folder: Path, **worker_settings: str) -> AsyncIterator[ScriptedCluster]:
        """A started one, stopped at the end whatever happens."""
        made = cls(bus_url, folder, **worker_settings)
        try:
            await made.start()
            yield made
        finally:
            await made.stop()

    async def start(self) -> None:
        """Start storage, the bus and the worker."""
        await self.bus.start()
        for queue in (GATEWAY_INBOX, SCHEDULER_INBOX, QPU_INBOX):
            await self.bus.consume(queue, self._receive)
        await self.storage.start()
        self.worker.settings["STORAGE_ADDRESS"] = address = f"127.0.0.1:{self.storage.settings['LISTEN_PORT']}"
        self._channel = channel(address)
        await self.worker.start()
        await self.heartbeat()

    async def add_worker(self, worker_id: str) -> None:
        """Start another worker, with settings and folders like those of the first."""
        folder = self.folder / worker_id
        folder.mkdir()
        made = ServiceProcess("qonduit_worker", folder, {**self.worker.settings, "WORKER_ID": worker_id})
        self.others[worker_id] = made
        await made.start()

    async def stop(self) -> None:
        if self._channel is not None:
            await self._channel.close()
        await self.bus.stop()
        self.storage.stop()
        for one in (self.worker, *self.others.values()):
            one.stop()

    async def _receive(self, delivery: Delivery) -> None:
        async with self._news:
            self.messages.append(delivery.message)
            self._news.notify_all()

    def of(self, kind: type[Message]) -> list[Message]:
        return [message for message in self.messages if isinstance(message, kind)]

    async def until(self, look: Callable[[], Message | None], what: str) -> Message:
        """Wait until something was said."""
        found: list[Message] = []

        def seen() -> bool:
            value = look()
            if value is not None:
                found.append(value)
            return value is not None

        async with self._news:
            try:
                await asyncio.wait_for(self._news.wait_for(seen), PATIENCE_S)
            except TimeoutError:
                raise AssertionError(f"{what} did not come. The worker says: {self.worker.log()}") from None
        return found[-1]

    async def heartbeat(self, *, leases: int | None = None, after: int = 0) -> WorkerHeartbeat:
        """Wait for a heartbeat (with so many leases) that came after so many others."""
        return await self.until(
            lambda: next(
                (beat for beat in self.of(WorkerHeartbeat)[after:] if leases is None or len(beat.leases) == leases),
                None,
            ),
            f"a heartbeat with {leases} leases",
        )

    def rooms(self) -> list[Path]:
        """Return the folders that programs run in."""
        return list((self.folder / "qonduit_worker" / "sandboxes").glob("driver-*/job"))

    def let_go(self, name: str = "go") -> None:
        """Let programs go on that wait for a file of this name beside them."""
        for room in self.rooms():
            with contextlib.suppress(FileNotFoundError):  # That of a job that is over goes just now.
                (room / name).touch()

    # --- Storage -------------------------------------------------------------------------------

    async def transferred(self, way: str, kind: str = "blob") -> int:
        """Return how many bytes of blobs or files storage has "served" or "stored" since it was started."""
        ready = json.loads(self.storage.ready_file.read_text())
        url = f"http://127.0.0.1:{ready['metrics_port']}/metrics"
        text = (await asyncio.to_thread(urllib.request.urlopen, url)).read().decode()
        found = re.search(rf'^qonduit_storage_{way}_bytes_total{{kind="{kind}"}} (\S+)$', text, re.MULTILINE)
        return int(float(found[1])) if found else 0

    def store(self, **rights: str) -> Storage:
        """Return storage with all rights of a trusted service, unless others are given."""
        assert self._channel is not None
        ticket = Ticket.lasting("ada", 3600, **(rights or {"service": "gateway"}))
        return Storage(self._channel, self.signer.sign(ticket))

    async def put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        await self.store().put_blob(digest, data)
        return digest

    async def blob(self, digest: str) -> bytes:
        path = self.folder / uuid.uuid4().hex
        await self.store().get_blob(digest, path)
        return path.read_bytes()

    async def read_log(self, log: str, *, follow: bool = False) -> str:
        """Return a log as it is now, or once it is closed."""
        from qonduit_api.internal.v1 import storage_pb2, storage_pb2_grpc  # noqa: PLC0415

        assert self._channel is not None
        ticket = self.signer.sign(Ticket.lasting("ada", 60, service="gateway"))
        stub = storage_pb2_grpc.LogServiceStub(self._channel)
        request = storage_pb2.ReadLogRequest(log=log, follow=follow)
        pieces = stub.ReadLog(request, metadata=(("authorization", f"Bearer {ticket}"),))
        return b"".join([piece.chunk async for piece in pieces]).decode()

    # --- The scheduler's part ------------------------------------------------------------------

    async def send(self, message: object) -> None:
        """Send to the worker."""
        await self.bus.publish(worker(self.worker_id), message)

    async def spec(self, program: str, *, arguments: str = "{}", attempt: int = 1, **fields: Any) -> JobSpec:
        """Store a program and say how to run it."""
        job_id = fields.pop("job_id", None) or f"job-{uuid.uuid4().hex[:12]}"
        space = fields.get("space") or spaces.of_user("ada")
        rights = {"read_space": space, "write_space": space, "blobs": "rw", "log": job_id}
        if provider := fields.get("provider"):
            of_provider = fields.setdefault("provider_space", spaces.of_provider(provider, "test"))
            rights |= {"provider_space": of_provider, "provider_log": spaces.provider_log(job_id)}
        ticket = Ticket.lasting("ada", 3600, job_id=job_id, **rights)
        artifact = await self.put(artifact_of({"main.py": program, **fields.pop("files", {})}))
        return JobSpec(
            job_id=job_id,
            attempt=attempt,
            user="ada",
            function_title="test",
            function_version="v",
            artifact_digest=fields.pop("artifact_digest", artifact),
            entrypoint="main.py",
            arguments_digest=await self.put(arguments.encode()),
            shape=fields.pop("shape", Shape(1000, 256 * MIB)),
            time_limit_s=fields.pop("time_limit_s", 600.0),
            submitted_at=time.time(),
            storage_ticket=self.signer.sign(ticket),
            **fields,
        )

    async def grant(self, spec: JobSpec, *, lease_id: str = "", term: int | None = None) -> Job:
        job = Job(spec, lease_id or f"lease-{uuid.uuid4().hex[:8]}", self)
        beats = [beat for beat in self.of(WorkerHeartbeat) if beat.worker_id == self.worker_id]
        incarnation = beats[-1].incarnation
        await self.send(DriverGranted(self.term if term is None else term, job.lease_id, spec, incarnation))
        return job

    async def run(self, program: str, **fields: Any) -> Job:
        """Store a program and grant its driver."""
        return await self.grant(await self.spec(program, **fields))


def artifact_of(files: dict[str, str]) -> bytes:
    """Return a tar with these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in files.items():
            data = text.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
