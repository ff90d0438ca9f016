"""What bench/qpu.py measures in: a program that runs straight at IBM's service, or as a job."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from typing import Any

from qiskit import QuantumCircuit
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime import QiskitRuntimeService, SamplerV2

DEVICE = "ibmq_manila"
MB = 1_000_000


class Wire:
    """Requests without the client: for bodies of any size."""

    def __init__(self) -> None:
        form = {"grant_type": "urn:ibm:params:oauth:grant-type:apikey", "apikey": os.environ["QISKIT_IBM_TOKEN"]}
        url = f"{os.environ['IAM_URL']}/identity/token"
        with urllib.request.urlopen(url, urllib.parse.urlencode(form).encode()) as answer:  # noqa: S310 -- http, on loopback.
            token = json.loads(answer.read())["access_token"]
        self._headers = {
            "Authorization": f"Bearer {token}",
            "Service-CRN": os.environ["QISKIT_IBM_INSTANCE"],
            "IBM-API-Version": "2026-04-15",
            "Content-Type": "application/json",
        }

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Return an answer's body."""
        url = os.environ["QISKIT_IBM_URL"] + path
        request = urllib.request.Request(url, body, self._headers, method=method)  # noqa: S310 -- as above.
        with urllib.request.urlopen(request) as answer:  # noqa: S310 -- as above.
            return bytes(answer.read())

    def submit(self, size: int) -> str:
        """Submit a job whose result is as large as its body; return its id."""
        params = {"echo": "x" * size}
        body = json.dumps({"program_id": "sampler", "backend": DEVICE, "params": params}).encode()
        return str(json.loads(self.ask("POST", "/jobs", body))["id"])

    def finished(self, qpu_job_id: str) -> float:
        """Return when a job ended, once it has."""
        while True:
            job = json.loads(self.ask("GET", f"/jobs/{qpu_job_id}?exclude_params=true"))
            if job["state"]["status"] not in {"Queued", "Running"}:
                return time.time()
            time.sleep(0.1)


def sampler() -> tuple[SamplerV2, QuantumCircuit]:
    """Return the real client's primitive and a small circuit."""
    backend = QiskitRuntimeService().backend(DEVICE)
    circuit = QuantumCircuit(1)
    circuit.x(0)
    circuit.measure_all()
    isa = generate_preset_pass_manager(optimization_level=0, backend=backend).run(circuit)
    return SamplerV2(mode=backend), isa


def latency(jobs: int) -> dict[str, float]:
    """Measure jobs one after another, in milliseconds: run() until it is accepted, and from the end to the result."""
    primitive, isa = sampler()
    accepted, fetched = [], []
    for number in range(-2, jobs):
        begin = time.time()
        job = primitive.run([isa], shots=10)
        submitted = time.time()
        job.result()
        returned = time.time()
        ended = datetime.fromisoformat(job.metrics()["timestamps"]["finished"]).astimezone(UTC).timestamp()
        if number >= 0:
            accepted.append(1e3 * (submitted - begin))
            fetched.append(1e3 * (returned - ended))
    return {"submit to accepted": statistics.median(accepted), "end to result": statistics.median(fetched)}


def payloads() -> dict[str, float]:
    """Measure large bodies and results, in milliseconds."""
    wire, measured = Wire(), {}
    for size in (8 * MB, 17 * MB):
        begin = time.time()
        qpu_job_id = wire.submit(size)
        submitted = time.time()
        wire.finished(qpu_job_id)
        fetch = time.time()
        if len(wire.ask("GET", f"/jobs/{qpu_job_id}/results")) < size:
            raise SystemExit("a result is too short")
        measured[f"{size // MB} MB submitted"] = 1e3 * (submitted - begin)
        measured[f"{size // MB} MB result read"] = 1e3 * (time.time() - fetch)
    return measured


def waiting(jobs: int) -> dict[str, float]:
    """Wait for the results of some jobs, as a program does with each in a thread."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 -- only here.

    primitive, isa = sampler()
    submitted = [primitive.run([isa], shots=10) for _ in range(jobs)]
    begin = time.time()
    with ThreadPoolExecutor(jobs) as threads:
        list(threads.map(lambda job: job.result(), submitted))
    return {"seconds": time.time() - begin, "cpu": time.process_time()}


def queued(jobs: int) -> dict[str, float]:
    """Submit many jobs and leave them waiting."""
    wire, begin = Wire(), time.time()
    for _ in range(jobs):
        wire.submit(100)
    return {"submitted a second": jobs / (time.time() - begin)}


MEASURES: dict[str, Any] = {"latency": latency, "payloads": payloads, "waiting": waiting, "queued": queued}


def main() -> None:
    """Measure what the arguments ask for: those of the job, or of the command line."""
    if len(sys.argv) > 1:
        asked = json.loads(sys.argv[1])
        sys.stdout.write(json.dumps(MEASURES[asked["measure"]](**asked["with"])))
        return
    from qiskit_serverless import get_arguments, save_result  # noqa: PLC0415 -- only in a job.

    asked = get_arguments()
    save_result(MEASURES[asked["measure"]](**asked["with"]))


if __name__ == "__main__":
    main()
