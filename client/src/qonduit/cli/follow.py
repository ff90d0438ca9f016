"""A job live on a terminal: its stages beside its log."""

from __future__ import annotations

import pprint
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from qonduit.cli import CANCELED, output
from qonduit.cli.screen import Screen
from qonduit.exceptions import JobFailedError, QonduitError

if TYPE_CHECKING:
    from qonduit import Job

_SECOND_CHANCE_S = 2.0
_TAIL_CHARS = 20_000


@dataclass(slots=True)
class _Tail:
    """The end of what was shown of a log."""

    text: str = ""


def follow_job(job: Job) -> None:
    """Show stages and the count of tasks (on stderr) and the log (on stdout) until the job is over, then its result.

    Ctrl-C detaches; a second one asks whether to cancel. Raises what `Job.result` raises.
    """
    shown, screen = _Tail(), Screen()
    try:
        log = threading.Thread(target=_copy_log, args=(job, shown, screen), daemon=True)
        log.start()
        try:
            _tell_changes(job, screen)
            log.join()
        finally:
            screen.close()
        result = job.result()
    except KeyboardInterrupt:
        screen.silence()
        _detach(job)
    except JobFailedError as error:
        raise _less_what_was_shown(error, shown.text) from None
    else:
        if result != {}:
            output.say(pprint.pformat(result, width=100))


def _tell_changes(job: Job, screen: Screen) -> None:
    began, status, tasks = time.monotonic(), "", ""
    for snapshot in job.watch():
        if snapshot.status != status:
            status = snapshot.status
            again = f", attempt {snapshot.attempt}" if snapshot.attempt > 1 else ""
            screen.note(f"{_stamp(began)}  {status}{again}")
        if snapshot.task_counts.total and str(snapshot.task_counts) != tasks:
            tasks = str(snapshot.task_counts)
            screen.progress(f"{_stamp(began)}  {tasks}")


def _less_what_was_shown(error: JobFailedError, log: str) -> JobFailedError:
    """Return the error without the traceback that the log has ended with."""
    first, *lines = str(error).rstrip().splitlines()
    if len(lines) <= 1 or lines[-1] not in log:
        return error
    return type(error)(f"{first}\n{lines[-1]}", job_id=error.job_id, reason=error.reason)


def _copy_log(job: Job, shown: _Tail, screen: Screen) -> None:
    try:
        for piece in job.stream_logs():
            shown.text = (shown.text + piece)[-_TAIL_CHARS:]
            screen.log(piece)
    except QonduitError as error:
        screen.note(f"the log cannot be shown: {error}")


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
