"""A job from a Python function: `@distribute_qiskit_function(client)`."""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from qonduit.exceptions import InvalidFunctionError
from qonduit.functions import QiskitFunction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qonduit.client import ServerlessClient
    from qonduit.job import Job

_ENTRYPOINT: Final = "qonduit_entrypoint.py"
_PICKLE: Final = "qonduit_function.pickle"
_PROGRAM: Final = """\
import pickle
import sys
from pathlib import Path

from qonduit import get_arguments, save_result

if sys.version_info[:2] != {version}:
    raise RuntimeError(
        "this function was made by Python {version[0]}.{version[1]}, and the worker runs "
        f"Python {{sys.version_info[0]}}.{{sys.version_info[1]}}: run it from the same version, or upload it as a file"
    )
function = pickle.loads(Path(__file__).with_name("{pickle}").read_bytes())
save_result(function(**get_arguments()))
"""


def distribute_qiskit_function(
    provider: ServerlessClient | None = None,
    dependencies: Sequence[str] | None = None,
    working_dir: str | None = None,
    *,
    title: str | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Job]]:
    """Make calls of a Python function jobs: it is uploaded with all that it uses, and runs with the call's arguments.

    The function takes named arguments, which travel as those of any job, and what it returns is the job's result.
    What it uses of its own module travels with it; other modules of the user's must lie in `working_dir`.

    Args:
        provider: The client to use; one that finds the server by its profile if it is left out.
        dependencies: Requirements such as "numpy>=2".
        working_dir: A folder that is uploaded beside the function; none if it is left out.
        title: What the function is called on the server; its own name if it is left out.

    Returns:
        A decorator. The decorated function returns a `Job` at once.

    Raises:
        InvalidFunctionError: When it is called: it cannot be carried to another process, or is given arguments
            without a name.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Job]:
        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> Job:
            if arguments:
                names = ", ".join(inspect.signature(function).parameters)
                raise InvalidFunctionError(
                    f"{function.__name__}() runs as a job, whose arguments have names: call it as "
                    f"{function.__name__}({names.split(', ')[0]}=..., ...). Its parameters are: {names}"
                )
            inspect.signature(function).bind(**named)  # A wrong name is told here, and not by the job.
            client = provider or _default_client()
            with tempfile.TemporaryDirectory(prefix="qonduit-function-") as folder:
                _write(function, Path(folder), working_dir)
                program = QiskitFunction(
                    title=title or function.__name__.strip("_<>"),
                    entrypoint=_ENTRYPOINT,
                    working_dir=folder,
                    dependencies=tuple(dependencies or ()),
                    description=inspect.getdoc(function) or "",
                )
                uploaded = client.upload(program)
            return client.run(client.get(uploaded.title, version=uploaded.version), arguments=named)

        return run

    return decorate


def _default_client() -> ServerlessClient:
    from qonduit.client import ServerlessClient  # noqa: PLC0415 - It brings gRPC along.

    return ServerlessClient()


def _write(function: Callable[..., Any], folder: Path, working_dir: str | None) -> None:
    import cloudpickle  # noqa: PLC0415 - Only who distributes functions pays for it.

    if working_dir is not None:
        shutil.copytree(working_dir, folder, dirs_exist_ok=True, symlinks=True)
    module = sys.modules.get(function.__module__)
    by_value = module is not None and module.__name__ != "__main__" and not _is_installed(module.__name__)
    if by_value:
        cloudpickle.register_pickle_by_value(module)
    try:
        data = cloudpickle.dumps(function)
    except Exception as error:
        raise InvalidFunctionError(
            f"{function.__name__}() cannot be carried to another process, because of something that it uses: {error}"
        ) from error
    finally:
        if by_value:
            cloudpickle.unregister_pickle_by_value(module)
    (folder / _PICKLE).write_bytes(data)
    (folder / _ENTRYPOINT).write_text(_PROGRAM.format(version=tuple(sys.version_info[:2]), pickle=_PICKLE))


def _is_installed(name: str) -> bool:
    """Tell whether a module belongs to an installed distribution, which the worker may have as well."""
    return name.partition(".")[0] in importlib.metadata.packages_distributions()
