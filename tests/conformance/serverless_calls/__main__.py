"""Runs the cells and prints what came of each."""

from __future__ import annotations

import importlib
import json
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from qiskit_serverless import Job, ServerlessClient
from qiskit_serverless.core.function import RunnableQiskitFunction

from . import recording
from .cells import CELLS, MISSING, World
from .programs import PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Callable

SUBJECTS = ("functions", "jobs", "files", "providers")
"""In the order of the table; each adds its cells."""
OWNERS = {"ServerlessClient": ServerlessClient, "RunnableQiskitFunction": RunnableQiskitFunction, "Job": Job}


def outcome(name: str, check: Callable[[World], str | None], world: World) -> str:
    """Return what came of a cell."""
    owner, _, method = name.partition(".")
    if method and not hasattr(OWNERS[owner], method):
        return MISSING
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return check(world) or "works"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what came of it.
        traceback.print_exc()
        return f"fails: {type(error).__name__}: {error}"


def main() -> None:
    """Make the programs, run the cells, print what came of them."""
    host, tokens, *subjects = sys.argv[1:]
    for subject in subjects or SUBJECTS:
        importlib.import_module(f"{__package__}.{subject}")
    Path("programs").mkdir()
    for name, text in PROGRAMS.items():
        (Path("programs") / name).write_text(text)
    world = World(host, json.loads(tokens))
    recording.begin(Path("answers.jsonl"))
    sys.stdout.write(json.dumps({name: outcome(name, check, world) for name, check in CELLS}) + "\n")


if __name__ == "__main__":
    main()
