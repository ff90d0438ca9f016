"""The command `qonduit`.

Exit codes: 0 fine, 1 the user's program or input is at fault, 2 wrong usage, 3 canceled, 4 the system is at
fault or not there, 5 a limit: of time, of memory,
or of the jobs that a user may have.
"""

import sys

from qonduit import exceptions as errors

OK, FAILED, USAGE, CANCELED, INFRASTRUCTURE, LIMIT = range(6)

_EXIT_CODES: tuple[tuple[type[errors.QonduitError], int], ...] = (
    (errors.JobCanceledError, CANCELED),
    (errors.OutOfMemoryError, LIMIT),
    (errors.JobTimeoutError, LIMIT),
    (errors.ResultTimeoutError, LIMIT),
    (errors.DeadlineExceededError, LIMIT),
    (errors.ActiveJobLimitError, LIMIT),
    (errors.WorkerLostError, INFRASTRUCTURE),
    (errors.ServerUnavailableError, INFRASTRUCTURE),
    (errors.ServerFaultError, INFRASTRUCTURE),
    (errors.DiskFullError, INFRASTRUCTURE),
    (errors.TransferDamagedError, INFRASTRUCTURE),
    (errors.ConfigurationError, INFRASTRUCTURE),
)


def exit_code(error: errors.QonduitError) -> int:
    """Return the exit code that tells scripts what kind of error it was."""
    if type(error).__module__ == "qonduit.stack.errors":
        return INFRASTRUCTURE
    if isinstance(error, errors.JobFailedError) and error.reason == "INTERNAL":
        return INFRASTRUCTURE
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), FAILED)


def main() -> None:
    """Run the command line."""
    from qonduit.cli.app import app  # noqa: PLC0415 - Typer is slow to load; whoever imports exit codes needs none of it.

    try:
        app()
    except errors.QonduitError as error:
        sys.stderr.write(f"qonduit: {error}\n")
        sys.exit(exit_code(error))
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        sys.stderr.close()
        sys.exit(OK)
    except OSError as error:
        # What has no file's name is no fault of what the user wrote.
        if error.filename is None:
            raise
        sys.stderr.write(f"qonduit: {error.filename}: {error.strerror}\n")
        sys.exit(FAILED)
