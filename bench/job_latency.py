"""How long a trivial job takes on a warm stack, against a bare `python -c "import qiskit"`, in one run.

    make bench                      (or: python bench/job_latency.py --jobs 200)

For each job, all on this machine's clock:
- submit to first line: from the call of run() to the first statement of the program
- end to result: from the program's last statement to result() having returned
- round trip: from the call of run() to result() having returned
The program is forked from a warm interpreter; the floor beside it is what one cold import of Qiskit costs here.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = """\
import time
first = time.time()
from qiskit_serverless import save_result
save_result({"first": first, "last": time.time()})
"""


def percentile(values: list[float], share: float) -> float:
    """Return the value below which a share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def cold_imports(times: int) -> list[float]:
    """Return the seconds of some `python -c "import qiskit"`."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import qiskit"], check=True)
        seconds.append(time.perf_counter() - start)
    return seconds


def run_jobs(jobs: int) -> dict[str, list[float]]:
    """Run trivial jobs one after another on the stack of the present profile."""
    from qonduit import QiskitFunction, ServerlessClient  # noqa: PLC0415 - The profile is set by then.

    client = ServerlessClient()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "trivial.py").write_text(PROGRAM)
        function = client.upload(QiskitFunction(title="job-latency", entrypoint="trivial.py", working_dir=folder))
    measured: dict[str, list[float]] = {"submit to first line": [], "end to result": [], "round trip": []}
    for number in range(-5, jobs):  # The first few warm caches and connections up and don't count.
        submitted = time.time()
        result = function.run().result()
        returned = time.time()
        if number >= 0:
            measured["submit to first line"].append(result["first"] - submitted)
            measured["end to result"].append(returned - result["last"])
            measured["round trip"].append(returned - submitted)
    return measured


def main() -> None:
    """Start a stack, measure, print a table, stop the stack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    jobs = parser.parse_args().jobs
    qonduit = str(Path(sys.executable).with_name("qonduit"))
    with tempfile.TemporaryDirectory() as data_dir:
        os.environ["QONDUIT_PROFILE"] = str(Path(data_dir) / "profile.json")
        subprocess.run([qonduit, "up", "--detach", "--data-dir", data_dir], check=True)
        try:
            measured = run_jobs(jobs)
            measured['floor: python -c "import qiskit"'] = cold_imports(10)
        finally:
            subprocess.run([qonduit, "down", "--data-dir", data_dir], check=True)
    print(f"{jobs} trivial jobs, one after another; milliseconds")
    print(f"{'':36}{'p50':>8}{'p95':>8}{'min':>8}")
    for name, seconds in measured.items():
        row = (statistics.median(seconds), percentile(seconds, 0.95), min(seconds))
        print(f"{name:36}" + "".join(f"{value * 1000:8.1f}" for value in row))


if __name__ == "__main__":
    main()
