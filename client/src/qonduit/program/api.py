"""The functions that a program calls about itself: its arguments, its result, its stage, its logger."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from pathlib import Path
from typing import Any, Final

from qonduit.program.channel import CHUNK_BYTES, AgentChannel, NotInProgramError, agent, in_program

ARGUMENTS_VARIABLE: Final = "ARGUMENTS_PATH"
JOB_VARIABLE: Final = "ENV_JOB_ID_GATEWAY"

_STAGES: Final = {
    "MAPPING": "MAPPING",
    "OPTIMIZING_HARDWARE": "OPTIMIZING_FOR_HARDWARE",
    "OPTIMIZING_FOR_HARDWARE": "OPTIMIZING_FOR_HARDWARE",
    "WAITING_QPU": "WAITING_FOR_QPU",
    "WAITING_FOR_QPU": "WAITING_FOR_QPU",
    "EXECUTING_QPU": "EXECUTING_QPU",
    "POST_PROCESSING": "POST_PROCESSING",
}
"""Every spelling of a stage that programs use, and the one that the system uses."""


def is_running_in_serverless() -> bool:
    """Tell whether this code runs as a job, and not on its author's machine."""
    return JOB_VARIABLE in os.environ


def get_arguments() -> dict[str, Any]:
    """Return the arguments that the job was started with, by name.

    Outside a job the file that the variable ARGUMENTS_PATH names is read, so that a program can be tried
    at home.

    Raises:
        NotInProgramError: This is no job, and ARGUMENTS_PATH names no file.
        ValueError: The file does not hold arguments.
    """
    from qonduit import encoding  # noqa: PLC0415 - Known decoders import Qiskit, which not every program needs.

    path = os.environ.get(ARGUMENTS_VARIABLE)
    if path is None:
        raise NotInProgramError(
            "get_arguments() finds no arguments: this is no job, and the environment variable "
            f"{ARGUMENTS_VARIABLE} names no file; to try a program outside a job, point it at a JSON file"
        )
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise NotInProgramError(f"get_arguments() finds no file {path}, which {ARGUMENTS_VARIABLE} names") from None
    arguments = encoding.decode(data) if data else {}
    if not isinstance(arguments, dict):
        kind = type(arguments).__name__
        raise ValueError(f"{path} must hold a JSON object of arguments by name, not {kind}")  # noqa: TRY004
    return arguments


def save_result(result: Any) -> bool:
    """Keep a value as the job's result; of several calls the last one counts.

    The value is durable when this returns. It may hold what JSON holds, and circuits, arrays, observables,
    primitive results and the like.

    Raises:
        NotSerializableError: A part of the value cannot be kept; the text names it. The job ends with an
            error even if the program goes on.
        NotInProgramError: This is no job.
    """
    from qonduit import encoding  # noqa: PLC0415 - See get_arguments.

    channel = agent()
    try:
        data = encoding.encode(result)
    except encoding.NotSerializableError as error:
        channel.call("result_failed", text=str(error))
        raise
    send_result(channel, data)
    return True


def send_result(channel: AgentChannel, data: bytes) -> None:
    """Send encoded bytes as the job's result."""
    token = channel.call("result_begin", size_bytes=len(data))
    view = memoryview(data)
    for start in range(0, len(data), CHUNK_BYTES):
        channel.call("result_chunk", upload=token, data=bytes(view[start : start + CHUNK_BYTES]))
    channel.call("result_commit", upload=token, digest=hashlib.sha256(data).hexdigest())


def sync_files() -> list[str]:
    """Store now what the program changed in /data, and do not wait for its end; in a task, what tasks changed there.

    What was deleted there is deleted from the user's files, too.

    Returns:
        A sentence for each thing that was not stored: what it is, and which rule it breaks.

    Raises:
        NotInProgramError: This is no job.
    """
    refused: list[str] = agent().call("sync_files")
    return refused


def update_status(status: str) -> bool:
    """Say which stage the job is in: `Job.MAPPING`, `Job.OPTIMIZING_HARDWARE`, `Job.WAITING_QPU`, ...

    Returns:
        True when it was told; False outside a job, where nobody listens.

    Raises:
        ValueError: There is no such stage.
    """
    name = str(status).removeprefix("RUNNING:").strip()
    stage = _STAGES.get(name)
    if stage is None:
        known = ", ".join(sorted(set(_STAGES.values())))
        raise ValueError(f"there is no stage {status!r}; the stages are {known}")
    if not in_program():
        get_logger().warning("update_status(%s) has no effect outside a job", stage)
        return False
    agent().call("stage", stage=stage)
    return True


def get_logger() -> logging.Logger:
    """Return a logger that writes to the job's log, one line an event, from level INFO up."""
    logger = logging.getLogger("qonduit.program.user")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s: %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger
