"""What the QPU broker adds to the real client, and what it saves, against the same client straight at the service.

    python bench/qpu.py                 (15 minutes; --rounds 1 for a quick look)

IBM's service is the fake of the tests, in a process of its own; both sides run the same program (bench/qpu_program.py),
in each round one after the other, each time the other one first:
- latency: jobs one after another: run() until it is accepted, and from the job's end to result() having returned
- payloads: bodies and results of 8 and 17 MB
- requests: those that the service gets while ten results are waited for for ten seconds and for a minute, beside the
  submissions
- cpu: of the broker, while 500 jobs wait: all of them at the service, or all but a few in the broker's queue
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
PROGRAM = HERE / "qpu_program.py"
WAITS_S = (10.0, 60.0)
NO_LIMIT = {"submissions_a_minute": 1_000_000}


@contextmanager
def service(queue_s: float = 0.0) -> Iterator[dict[str, Any]]:
    """Run the fake of IBM's service."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "tests")}
    command = [sys.executable, "-m", "fake_ibm", "--queue", str(queue_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        if process.stdout is None:
            raise SystemExit("the service has no stdout")
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


@contextmanager
def stack(ibm: dict[str, Any], **account: Any) -> Iterator[Stack]:
    """Run a stack on the service."""
    from qonduit import QiskitFunction, ServerlessClient  # noqa: PLC0415 - The profile is set by then.

    qonduit = str(Path(sys.executable).with_name("qonduit"))
    with tempfile.TemporaryDirectory() as data_dir:
        accounts = Path(data_dir) / "accounts.json"
        accounts.touch(0o600)
        token, instance = (ibm["environment"][f"QISKIT_IBM_{name}"] for name in ("TOKEN", "INSTANCE"))
        whole = {"name": "bench", "token": token, "url": ibm["url"], "instances": [instance], **NO_LIMIT, **account}
        accounts.write_text(json.dumps({"accounts": [whole]}))
        os.environ |= ibm["hosts"] | {
            "QONDUIT_PROFILE": str(Path(data_dir) / "profile.json"),
            "QONDUIT_QPU_BROKER_IBM_ACCOUNTS_FILE": str(accounts),
            "QONDUIT_QPU_BROKER_QUEUE_DELAY_S": "0",
        }
        subprocess.run([qonduit, "up", "--detach", "--data-dir", data_dir], check=True, stdout=subprocess.DEVNULL)
        try:
            client = ServerlessClient()
            function = client.upload(QiskitFunction("qpu-bench", entrypoint=PROGRAM.name, working_dir=str(HERE)))
            yield Stack(function, qonduit, data_dir)
        finally:
            subprocess.run([qonduit, "down", "--data-dir", data_dir], check=True, stdout=subprocess.DEVNULL)


def directly(ibm: dict[str, Any], measure: str, **options: Any) -> dict[str, float]:
    """Run a measure straight at the service."""
    asked = json.dumps({"measure": measure, "with": options})
    command = [sys.executable, "-W", "ignore", str(PROGRAM), asked]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ, **ibm["environment"]})
    return dict(json.loads(found.stdout))


def seen(ibm: dict[str, Any]) -> int:
    """Return how many requests the service got, without submissions and what is asked once."""
    root = ibm["hosts"]["IAM_URL"]
    with urllib.request.urlopen(f"{root}/fake/seen") as answer:  # noqa: S310 -- http, on loopback.
        return sum(number for what, number in json.loads(answer.read()).items() if what == "GET jobs")


def compare(rounds: int, jobs: int) -> dict[str, dict[str, list[float]]]:
    """Measure latency and payloads on both sides."""
    found: dict[str, dict[str, list[float]]] = {}
    with service() as ibm, stack(ibm) as job:
        sides = {
            "direct": lambda measure, **options: directly(ibm, measure, **options),
            "through": job.measure,
        }
        for number in range(rounds):
            for side in sorted(sides, reverse=bool(number % 2)):
                measured = sides[side]("latency", jobs=jobs) | sides[side]("payloads")
                for row, value in measured.items():
                    found.setdefault(row, {}).setdefault(side, []).append(value)
    return found


def requests(rounds: int, wait_s: float) -> dict[str, list[float]]:
    """Count the requests for ten jobs that wait so long, on both sides."""
    found: dict[str, list[float]] = {"direct": [], "through": []}
    with service(queue_s=wait_s) as ibm, stack(ibm, jobs_a_device=10) as job:
        for _ in range(rounds):
            before = seen(ibm)
            directly(ibm, "waiting", jobs=10)
            between = seen(ibm)
            job.measure("waiting", jobs=10)
            found["direct"].append(between - before)
            found["through"].append(seen(ibm) - between)
    return found


class Stack:
    """A stack that runs."""

    def __init__(self, function: Any, qonduit: str, data_dir: str) -> None:
        self._function = function
        self._status = [qonduit, "status", "--json", "--data-dir", data_dir]

    def measure(self, measure: str, **options: Any) -> dict[str, float]:
        """Run a measure in a job."""
        return dict(self._function.run(measure=measure, **{"with": options}).result())

    def broker(self) -> psutil.Process:
        """Return the QPU broker's process."""
        services = json.loads(subprocess.check_output(self._status))["services"]
        return psutil.Process(next(one["pid"] for one in services if one["name"] == "qpu_broker"))


def broker_cpu(jobs: int, seconds: float, **account: Any) -> float:
    """Return the share of a core that the broker takes while jobs wait, in percent."""
    with service(queue_s=3600.0) as ibm, stack(ibm, **account) as job:
        job.measure("queued", jobs=jobs)
        broker = job.broker()
        settle, before = time.time(), broker.cpu_times()
        time.sleep(seconds)
        after = broker.cpu_times()
        used = after.user + after.system - before.user - before.system
        return 100.0 * used / (time.time() - settle)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=40, help="Jobs a round, for latency.")
    options = parser.parse_args()
    print("| ms, medians of rounds | direct | through the broker | added |")
    print("|---|---|---|---|")
    for row, sides in compare(options.rounds, options.jobs).items():
        direct, through = (statistics.median(sides[side]) for side in ("direct", "through"))
        print(f"| {row} | {direct:.1f} | {through:.1f} | {through - direct:+.1f} |")
    print()
    for wait_s in WAITS_S:
        counted = requests(options.rounds, wait_s)
        direct, through = (statistics.median(counted[side]) for side in ("direct", "through"))
        share = through / direct
        print(f"Requests, ten jobs wait {wait_s:.0f} s: direct {direct:.0f}, through {through:.0f} ({share:.2f}x)")
    shallow = broker_cpu(500, 20.0)
    deep = broker_cpu(500, 20.0, jobs_a_device=500, jobs_at_once=500)
    print(f"Broker's CPU while 500 jobs wait: {shallow:.1f}% with a few at the service, {deep:.1f}% with all there")


if __name__ == "__main__":
    main()
