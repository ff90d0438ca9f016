"""A real gateway and a real storage service as processes, and a scripted rest of the cluster on a real bus."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from qonduit.stack.rabbitmq import free_port
from qonduit_api.v1 import (
    cluster_pb2_grpc,
    files_pb2_grpc,
    functions_pb2,
    functions_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    providers_pb2_grpc,
    qpu_pb2_grpc,
)
from qonduit_service_kit.bus import QPU_INBOX, SCHEDULER_INBOX, Bus, worker_inbox
from qonduit_service_kit.messages import GATEWAY, EventKind, JobEvent, JobSpec, JobSubmitted
from qonduit_service_kit.rpc import channel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import grpc.aio
    from qonduit_service_kit.bus import Delivery

ADMIN_TOKEN = "bootstrap-token-of-a-test"
READY_TIMEOUT_S = 240.0
PATIENCE_S = 120.0
PROGRAM = b"print('hello')\n"


@dataclass
class Service:
    """One service as a process of its own."""

    name: str
    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None
    _ports: dict[str, int] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._ports['grpc_port']}"

    @property
    def metrics_port(self) -> int:
        return self._ports["metrics_port"]

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self) -> None:
        """Start it and return once it serves; from the second time on, on the same port."""
        self.folder.mkdir(parents=True, exist_ok=True)
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        prefix = f"QONDUIT_{self.name.upper()}_"
        # No port that the system could give to somebody else while the service is away.
        self.settings.setdefault("LISTEN_PORT", str(free_port()))
        settings = {"DATA_DIR": str(self.folder), "READY_FILE": str(ready), **self.settings}
        environment = {**os.environ, **{prefix + key: value for key, value in settings.items()}}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"qonduit_{self.name}"], env=environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not ready.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.name} did not start:\n{self.log}")
            time.sleep(0.02)
        self._ports = json.loads(ready.read_text())

    def kill(self) -> None:
        """End it as a crash would."""
        self._end("kill")

    def stop(self) -> None:
        """End it in order; safe to call twice."""
        self._end("terminate")

    def _end(self, how: str) -> None:
        process, self._process = self._process, None
        if process is not None:
            getattr(process, how)()
            process.wait(READY_TIMEOUT_S)


class Client:
    """All services of the API with one token."""

    def __init__(self, address: str, token: str, name: str = "admin") -> None:
        self.name = name
        self._channel = channel(address, token=token)
        self.functions: Any = functions_pb2_grpc.FunctionServiceStub(self._channel)
        self.jobs: Any = jobs_pb2_grpc.JobServiceStub(self._channel)
        self.files: Any = files_pb2_grpc.FileServiceStub(self._channel)
        self.providers: Any = providers_pb2_grpc.ProviderServiceStub(self._channel)
        self.qpu: Any = qpu_pb2_grpc.QpuServiceStub(self._channel)
        self.cluster: Any = cluster_pb2_grpc.ClusterServiceStub(self._channel)

    @property
    def channel(self) -> grpc.aio.Channel:
        return self._channel

    async def upload(self, title: str = "hello", **spec: Any) -> functions_pb2.UploadFunctionResponse:
        """Upload a function with one program."""
        artifact = tar({"program.py": PROGRAM})
        messages = list(upload_messages(artifact, title=title, **{"entrypoint": "program.py", **spec}))
        answer: functions_pb2.UploadFunctionResponse = await self.functions.UploadFunction(iter(messages))
        return answer

    async def run(self, title: str = "hello", **request: Any) -> jobs_pb2.Job:
        """Run a function."""
        answer: jobs_pb2.RunResponse = await self.jobs.Run(jobs_pb2.RunRequest(function_title=title, **request))
        return answer.job

    async def get(self, job_id: str) -> jobs_pb2.Job:
        answer: jobs_pb2.GetJobResponse = await self.jobs.GetJob(jobs_pb2.GetJobRequest(job_id=job_id))
        return answer.job

    async def timeline(self, job_id: str) -> list[str]:
        answer = await self.jobs.GetTimeline(jobs_pb2.GetTimelineRequest(job_id=job_id))
        return [entry.status for entry in answer.entries]

    async def until(self, job_id: str, *statuses: str) -> jobs_pb2.Job:
        """Watch until the job has one of these statuses (or is over)."""
        last: jobs_pb2.Job | None = None
        async with asyncio.timeout(PATIENCE_S):
            async for answer in self.jobs.WatchJob(jobs_pb2.WatchJobRequest(job_id=job_id)):
                last = answer.job
                if last is not None and last.status in statuses:
                    return last
        raise AssertionError(f"the watch of {job_id} ended with {last and last.status}, not with {statuses}")

    async def close(self) -> None:
        await self._channel.close()


class Cluster:
    """A scripted scheduler, worker and QPU broker: what they are told is kept, what they say is up to the test."""

    def __init__(self, url: str, worker_id: str = "w1") -> None:
        self.bus = Bus(url, app_id="script", registry=CollectorRegistry())
        self.worker_id = worker_id
        self.scheduler: asyncio.Queue[Any] = asyncio.Queue()
        self.worker: asyncio.Queue[Any] = asyncio.Queue()
        self.qpu: asyncio.Queue[Any] = asyncio.Queue()
        self._sequences: dict[tuple[str, int], int] = {}

    async def start(self) -> None:
        await self.bus.start()
        for queue, inbox in (
            (SCHEDULER_INBOX, self.scheduler),
            (worker_inbox(self.worker_id), self.worker),
            (QPU_INBOX, self.qpu),
        ):
            await self.bus.consume(queue, _into(inbox))

    async def stop(self) -> None:
        await self.bus.stop()

    async def submitted(self, job_id: str = "", attempt: int = 0) -> JobSpec:
        """Wait until the scheduler is told of a job, passing over everything else."""
        while True:
            message = await asyncio.wait_for(self.scheduler.get(), PATIENCE_S)
            if not isinstance(message, JobSubmitted):
                continue
            spec = message.spec
            if job_id in {"", spec.job_id} and attempt in {0, spec.attempt}:
                return spec

    async def told(self, inbox: asyncio.Queue[Any], kind: type, job_id: str = "") -> Any:
        """Wait for the next message of a kind, about a job if one is named."""
        while True:
            message = await asyncio.wait_for(inbox.get(), PATIENCE_S)
            if isinstance(message, kind) and job_id in {"", getattr(message, "job_id", "")}:
                return message

    async def say(self, message: object) -> None:
        """Say something to the gateway."""
        await self.bus.publish(GATEWAY, message)

    def event(self, spec: JobSpec, kind: EventKind, **more: Any) -> JobEvent:
        """Make the attempt's next event."""
        key = (spec.job_id, spec.attempt)
        self._sequences[key] = self._sequences.get(key, -1) + 1
        values = {"sequence": self._sequences[key], "at": time.time(), "worker_id": self.worker_id, **more}
        return JobEvent(job_id=spec.job_id, attempt=spec.attempt, kind=kind, **values)

    async def tell(self, spec: JobSpec, kind: EventKind, **more: Any) -> JobEvent:
        """Say the attempt's next event."""
        event = self.event(spec, kind, **more)
        await self.say(event)
        return event

    async def begin(self, spec: JobSpec) -> None:
        """Bring an attempt to RUNNING."""
        await self.tell(spec, EventKind.INITIALIZING)
        await self.tell(spec, EventKind.RUNNING)


def _into(inbox: asyncio.Queue[Any]) -> Any:
    async def handle(delivery: Delivery) -> None:
        inbox.put_nowait(delivery.message)

    return handle


def tar(files: dict[str, bytes]) -> bytes:
    """Pack files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def upload_messages(artifact: bytes, **spec: Any) -> Iterator[functions_pb2.UploadFunctionRequest]:
    """Cut an upload into messages."""
    header = functions_pb2.UploadFunctionHeader(
        spec=functions_pb2.FunctionSpec(**spec),
        artifact_digest=hashlib.sha256(artifact).hexdigest(),
        artifact_bytes=len(artifact),
    )
    yield functions_pb2.UploadFunctionRequest(header=header)
    for start in range(0, len(artifact), 512 * 1024):
        yield functions_pb2.UploadFunctionRequest(chunk=artifact[start : start + 512 * 1024])
