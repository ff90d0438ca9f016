"""The program's own process: everything that must be true of a Python process before a user's code runs in it."""

import atexit
import contextlib
import gc
import importlib
import io
import os
import random
import signal
import site
import sys
import tempfile
import threading
import types
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from qonduit_worker.zygote import kernel
from qonduit_worker.zygote.wire import PORT_PLACEHOLDER

_CLOSE_RANGE = 436
_OOM_FIRST = b"500"
_INTERRUPTED = 130


class _OrderedWriter(io.BufferedWriter):
    """A buffered writer that lets its peer's bytes out first, so that two streams keep one order."""

    peer: io.BufferedWriter | None = None

    def write(self, data: Any, /) -> int:
        if self.peer is not None and not self.peer.closed:
            self.peer.flush()
        return super().write(data)


def prepare_streams(output: int) -> None:
    """Point standard input at nothing, standard output and error at `output`, and close all else."""
    null = os.open("/dev/null", os.O_RDONLY)
    for descriptor, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, target)
    try:
        kernel.syscall(_CLOSE_RANGE, 3, 0x7FFFFFFF, 0)
    except OSError:
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    writers = [_OrderedWriter(io.FileIO(descriptor, "wb", closefd=False)) for descriptor in (1, 2)]
    writers[0].peer, writers[1].peer = writers[1], writers[0]
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _text(writers[0], "strict")
    sys.stderr = _text(writers[1], "backslashreplace")
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, f"__{name}__", getattr(sys, name))


def _text(writer: _OrderedWriter, errors: str) -> io.TextIOWrapper:
    text = io.TextIOWrapper(writer, encoding="utf-8", errors=errors, line_buffering=True, write_through=True)
    text.mode = "w"  # type: ignore[misc]  # The interpreter's own streams have it too.
    return text


def prepare_interpreter(environment: Mapping[str, str], port: int | None) -> None:
    """Give the interpreter the program's environment, a fresh `__main__`, fresh random numbers."""
    os.environ.clear()
    os.environ.update({name: value.replace(PORT_PLACEHOLDER, str(port)) for name, value in environment.items()})
    sys.argv = [""]
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    tempfile.tempdir = None  # Whatever a module found out while preloading is not true here.
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb") as file:  # noqa: PTH123
        # When memory runs out the program goes first, never the process that reports its end.
        file.write(_OOM_FIRST)
    gc.enable()


def default_signals() -> None:
    """Take back what the zygote and a tree's first process set."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def resolve(entry: str) -> Callable[[], object]:
    """Find the function that `module:function` names.

    Raises:
        ImportError, AttributeError: There is none.
    """
    module, _, name = entry.partition(":")
    found: Callable[[], object] = getattr(importlib.import_module(module), name)
    return found


def add_layer(folder: str) -> None:
    """Import from `folder`, and from what its `.pth` files name, before any other packages.

    The standard library stays in front, as it does for installed packages: old ones bring modules that Python has
    had for long.
    """
    library = os.path.dirname(os.__file__)  # noqa: PTH120 - every program passes here.
    first = 1 + max((at for at, path in enumerate(sys.path) if path in {library, library + "/lib-dynload"}), default=-1)
    known = len(sys.path)
    site.addsitedir(folder)
    sys.path[first:] = sys.path[known:] + sys.path[first:known]


def run(entry: str, layer: str | None = None) -> NoReturn:
    """Call the entry function, with a layer of packages, and end the process as a Python interpreter would."""
    code = 1
    try:
        code = _call(entry, layer)
        code = _shut_down(code)
    finally:
        os._exit(code)


def _call(entry: str, layer: str | None) -> int:
    try:
        if layer is not None:
            add_layer(layer)  # Its `.pth` files are code of strangers, as the program is.
        resolve(entry)()
    except SystemExit as error:
        return _exit_code(error.code)
    except KeyboardInterrupt:
        _report(sys.exc_info())
        return _INTERRUPTED
    except BaseException:  # noqa: BLE001 - whatever a program raises is shown and becomes its exit code.
        _report(sys.exc_info())
        return 1
    return 0


def _report(details: Any) -> None:
    kind, error, trace = details
    # The first frame is this module's, which tells a user nothing.
    sys.excepthook(kind, error, trace.tb_next if trace is not None else None)


def _exit_code(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)  # noqa: T201 - what `sys.exit("text")` does.
    return 1


def _shut_down(code: int) -> int:
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - what the interpreter itself calls.
    atexit._run_exitfuncs()  # noqa: SLF001
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return code or 120
    return code
