"""The simulator's process: jobs in on stdin, results out on stdout; or one table of noise out, and no job in.

Started by `local.launching`; not for people.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
from typing import BinaryIO

from qonduit_qpu_broker.simulator.confinement import confine
from qonduit_qpu_broker.simulator.frames import SimulationReply, SimulationRequest, pack, read_frame

_PR_SET_PDEATHSIG = 1
_LOW_PRIORITY = 10
"""A tenth of what a job gets beside it: not so low that on a busy machine it never ends."""


def main() -> None:
    """Serve jobs until stdin ends."""
    arguments = _arguments()
    confine(memory_bytes=arguments.memory_bytes, hidden=arguments.hide)
    # A change of capabilities takes this order back, so it is given after it.
    _die_with_parent(arguments.parent)
    jobs, results = _claim_pipes()
    # Imported under the limits, after the pipes are out of reach of anything that prints.
    from qonduit_qpu_broker.simulator.engine import Engine  # noqa: PLC0415
    from qonduit_qpu_broker.simulator.warmup import warm_up  # noqa: PLC0415

    engine = Engine(max_qubits=arguments.max_qubits)
    if arguments.noise_table_of:
        os.nice(_LOW_PRIORITY)
        results.write(engine.noise_table(arguments.noise_table_of))
        results.flush()
        return
    warm_up(engine)
    results.write(pack(SimulationReply(ok=True, ready=True)))
    results.flush()
    while (frame := read_frame(jobs)) is not None:
        header, body = frame
        reply, result = engine.run(SimulationRequest(**json.loads(header)), body)
        results.write(pack(reply, result))
        results.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="qonduit_qpu_broker.simulator")
    parser.add_argument("--max-qubits", type=int, required=True)
    parser.add_argument("--memory-bytes", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--hide", action="append", default=[])
    parser.add_argument("--noise-table-of", metavar="DEVICE", default="")
    return parser.parse_args()


def _die_with_parent(parent: int) -> None:
    """Have the kernel end this process when the broker is gone, even in the middle of a job."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def _claim_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Take stdin and stdout for frames; whatever prints from now on goes to stderr."""
    jobs = os.fdopen(os.dup(0), "rb")
    results = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return jobs, results


if __name__ == "__main__":
    main()
