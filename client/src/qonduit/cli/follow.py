"""A job live on a terminal: its stages beside its log."""

from __future__ import annotations

import pprint
import sys
import threading
import time
from typing import TYPE_CHECKING

import typer

from qonduit.cli import CANCELED, output
from qonduit.exceptions import QonduitError

if TYPE_CHECKING:
    from qonduit import Job

_SECOND_CHANCE_S = 2.0


def follow_job(job: Job) -> None:
    """Show stages (on stderr) and the log (on stdout) until the job is over, then its result.

    Ctrl-C detaches; a second one asks whether to cancel. Raises what `Job.result` raises.
    """
    try:
        log = threading.Thread(target=_copy_log, args=(job,), daemon=True)
        log.start()
        began = time.monotonic()
        for status in job.follow():
            output.note(f"{_stamp(began)}  {status}")
        log.join()
        result = job.result()
    except KeyboardInterrupt:
        _detach(job)
    else:
        if result != {}:
            output.say(pprint.pformat(result, width=100))


def _copy_log(job: Job) -> None:
    try:
        for piece in job.stream_logs():
            sys.stdout.write(piece)
            sys.stdout.flush()
    except QonduitError as error:
        output.note(f"the log cannot be shown: {error}")


def _detach(job: Job) -> None:
    output.note(
        f"\nDetached; the job goes on. See it again with `qonduit job logs {job.job_id} --follow`.\n"
        "Ctrl-C again now to cancel it."
    )
    try:
        time.sleep(_SECOND_CHANCE_S)
    except KeyboardInterrupt:
        if not typer.confirm(f"\nCancel job {job.job_id}?", default=True, err=True):
            return
        output.note(job.cancel())
        raise typer.Exit(CANCELED) from None


def _stamp(began: float) -> str:
    return f"{time.monotonic() - began:7.2f} s"
