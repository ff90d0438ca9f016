"""A result that a program wrote into a file itself, as the client of Qiskit Serverless does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from qonduit.program.api import send_result
from qonduit.program.channel import agent

RESULTS_VARIABLE: Final = "RESULTS_PATH"


def result_is_saved() -> bool:
    """Tell whether there is a result, or a call of `save_result` that failed, whoever in the program made it."""
    return _path().is_file() or bool(agent().call("result_saved"))


def keep_written_result() -> None:
    """Keep the file that RESULTS_PATH names as the job's result, unless a call has saved one; it must be JSON."""
    path = _path()
    if not path.is_file() or agent().call("result_saved"):
        return
    try:
        data = path.read_bytes()
        json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        agent().call("result_failed", text=f"{path}, which {RESULTS_VARIABLE} names, holds no JSON: {error}")
    else:
        send_result(agent(), data)


def _path() -> Path:
    return Path(os.environ.get(RESULTS_VARIABLE, ""))
