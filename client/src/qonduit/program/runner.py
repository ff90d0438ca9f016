"""Starts programs: a driver's entrypoint as `__main__`, or an executor, in a process that was forked for it."""

from __future__ import annotations

import builtins
import contextlib
import importlib.machinery
import os
import sys
import traceback
import types
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qonduit.program import executor, provider_runner
from qonduit.program.api import ARGUMENTS_VARIABLE
from qonduit.program.channel import agent
from qonduit.program.import_hooks import after_import
from qonduit.program.pass_managers import keep_pass_managers
from qonduit.program.provider_runner import run_runner, unused_runner
from qonduit.program.runtime_redirect import redirect_runtime_client
from qonduit.program.told_errors import told_by
from qonduit.program.written_result import keep_written_result

if TYPE_CHECKING:
    from types import TracebackType

ENTRYPOINT_VARIABLE: Final = "QONDUIT_ENTRYPOINT"
JOB_FOLDER_VARIABLE: Final = "QONDUIT_JOB_FOLDER"
MAX_ERROR_TEXT: Final = 16_000

CLIENT_VARIABLE: Final = "QONDUIT_QISKIT_SERVERLESS"
"""Whose `qiskit_serverless` a program imports: with "own" the one that its function depends on, else ours."""
OLDEST_ARGUMENTS: Final = "arguments.serverless"

_COMPAT_FOLDER: Final = str(Path(__file__).parent.parent / "compat")
_OWN_FILES: Final = {__file__, provider_runner.__file__}


def run_driver() -> None:
    """Run the entrypoint that the environment names; raises SystemExit with its exit code when it fails."""
    entrypoint = _enter()
    _show_arguments()
    sys.argv = [str(entrypoint)]
    runner = None
    try:
        source = entrypoint.read_bytes()
        runner = unused_runner(_execute(entrypoint, source), source)
        if runner is not None:
            run_runner(runner)
        keep_written_result()
    except SystemExit as end:
        if not end.code:
            keep_written_result()
        raise
    except BaseException as error:  # noqa: BLE001 - Whatever a program lets out is its end, told to its author.
        _tell(error, told_by(error, any_kind=runner is not None))
        raise SystemExit(1) from None


def run_executor() -> None:
    """Take tasks, with the same modules in reach as in the driver; returns when told to end."""
    _enter()
    executor.run_executor()


def _enter() -> Path:
    """Go to the program's folder and make its modules importable; returns the path of its entrypoint."""
    folder = Path(os.environ.get(JOB_FOLDER_VARIABLE, "/job"))
    entrypoint = folder / os.environ.get(ENTRYPOINT_VARIABLE, "")
    os.chdir(folder)
    own = os.environ.get(CLIENT_VARIABLE, "").lower() == "own"
    sys.path[:0] = [str(entrypoint.parent)] if own else [str(entrypoint.parent), _COMPAT_FOLDER]
    redirect_runtime_client()
    after_import("qiskit", keep_pass_managers)
    return entrypoint


def _show_arguments() -> None:
    """Put the arguments where programs of Qiskit Serverless's oldest client look for them."""
    with contextlib.suppress(OSError):  # The program has a file of that name itself.
        Path(OLDEST_ARGUMENTS).symlink_to(os.environ.get(ARGUMENTS_VARIABLE, ""))


def _execute(entrypoint: Path, source: bytes) -> types.ModuleType:
    """Execute a file as a script; unlike `runpy`, keep its module for threads that outlive its last line."""
    module = types.ModuleType("__main__")
    module.__file__ = str(entrypoint)
    module.__loader__ = importlib.machinery.SourceFileLoader("__main__", str(entrypoint))
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    code = compile(source, str(entrypoint), "exec", dont_inherit=True)
    exec(code, module.__dict__)  # noqa: S102 - Running the user's program is what this process is for.
    return module


def _tell(error: BaseException, told: dict[str, str]) -> None:
    trace = _user_frames(error.__traceback__)
    text = "".join(traceback.format_exception(type(error), error, trace))
    # The agent may be gone already; the traceback still belongs on standard error.
    with contextlib.suppress(Exception):
        agent().call("error_text", text=text[-MAX_ERROR_TEXT:], **told)
    if sys.excepthook is sys.__excepthook__:
        print(text, file=sys.stderr, end="", flush=True)  # noqa: T201 - What an interpreter does.
    else:
        sys.excepthook(type(error), error, trace)


def _user_frames(trace: TracebackType | None) -> TracebackType | None:
    """Leave out the first frames, which are ours and tell a program's author nothing."""
    while trace is not None and trace.tb_frame.f_code.co_filename in _OWN_FILES:
        trace = trace.tb_next
    return trace
