"""Work that gives every panel something to show: tasks, QPU jobs, files, and what goes wrong in a healthy system."""

from __future__ import annotations

import contextlib
import tarfile
import time
from typing import TYPE_CHECKING, Any, Final

from observed_stack import IBM_DEVICE
from qonduit import QiskitFunction
from qonduit.exceptions import InvalidFileError, JobFailedError
from stack_control import TOLD, tell

if TYPE_CHECKING:
    from pathlib import Path

    from observed_stack import Observed
    from qonduit import Job, ServerlessClient

_SAMPLE: Final = """\
import time
from qiskit import QuantumCircuit
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime import QiskitRuntimeService, SamplerV2, Session
from qiskit_serverless import Job, distribute_task, get, get_arguments, save_result, update_status

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(1000))

@distribute_task(target={"cpu": 0.5, "mem": 300 * 2**20})
def burn_elsewhere(seconds):
    burn(seconds)

update_status(Job.MAPPING)
burn(0.3)
update_status(Job.OPTIMIZING_HARDWARE)
bell = QuantumCircuit(2)
bell.h(0)
bell.cx(0, 1)
bell.measure_all()
backend = QiskitRuntimeService().backend(get_arguments()["device"])
isa = generate_preset_pass_manager(optimization_level=1, backend=backend).run(bell)
get([burn_elsewhere(0.3) for _ in range(8)])
"""
_LOCAL: Final = _SAMPLE + (
    "for job in [SamplerV2(mode=backend).run([isa], shots=4000) for _ in range(3)]:\n    job.result()\n"
    "update_status(Job.POST_PROCESSING)\nburn(0.2)\nprint('done')\nsave_result({})\n"
)
_SESSION: Final = (
    TOLD
    + _SAMPLE
    + (
        "with Session(backend=backend) as session:\n"
        "    for _ in range(2):\n        SamplerV2(mode=session).run([isa], shots=2000).result()\n"
        "    told(get_arguments()['until'])\n"
        "save_result({})\n"
    )
)
_FAILS: Final = "print('about to fail')\nraise ValueError('as it was meant to')\n"
_OUT_OF_MEMORY: Final = """\
from qiskit_serverless import distribute_task, get

@distribute_task(target={"cpu": 0.5, "mem": 200 * 2**20})
def hog():
    return len(bytearray(b"x") * 2**30)

get(hog())
"""
_READ_WITHIN_S: Final = 2.0
_SESSION_SEEN: Final = "max(qonduit_qpu_open_sessions) > 0 and max(qonduit_qpu_open_upstream_sessions) > 0"


def work(observed: Observed, folder: Path) -> None:
    """Do it all twice: Prometheus sees a counter rise only from its second value on."""
    with observed.stack.client() as client:
        for number in range(2):
            _programs(observed, client, folder, number)
            _files(client, folder)
    # What came last must be read, and what is recorded of it.
    observed.wait_for_reading(time.time() + _READ_WITHIN_S)


def _programs(observed: Observed, client: ServerlessClient, folder: Path, number: int) -> None:
    session = _submit(client, folder, "session", _SESSION, device=IBM_DEVICE, until=f"seen-{number}.tar")
    local = [_submit(client, folder, "local", _LOCAL, device="simulated_ibm_torino") for _ in range(2)]
    bad = [_submit(client, folder, "fails", _FAILS), _submit(client, folder, "hog", _OUT_OF_MEMORY)]
    if number:
        observed.wait_for(_SESSION_SEEN, 600)  # The QPU broker looks every five seconds what is open.
    tell(client, folder, f"seen-{number}.tar")
    for job in (session, *local):
        job.result(timeout=300)
    for job in bad:
        with contextlib.suppress(JobFailedError):
            job.result(timeout=300)
            raise AssertionError(f"{job.job_id} was to fail, and did not")


def _submit(client: ServerlessClient, folder: Path, title: str, text: str, **arguments: Any) -> Job:
    home = folder / title
    home.mkdir(exist_ok=True)
    (home / "program.py").write_text(text)
    return client.upload(QiskitFunction(title=title, entrypoint="program.py", working_dir=str(home))).run(**arguments)


def _files(client: ServerlessClient, folder: Path) -> None:
    good, bad = folder / "good.tar", folder / "bad.tar"
    with tarfile.open(good, "w") as tar:
        tar.add(__file__, "a.py")
    bad.write_bytes(b"This is no tar.\n" * 100)
    client.file_upload(good)
    client.file_download("good.tar", target_name="back.tar", download_location=str(folder), overwrite=True)
    with contextlib.suppress(InvalidFileError):
        client.file_upload(bad)
        raise AssertionError("a file that is no tar was taken")
