"""What the cells share: the table that they add to, the client, what was made so far, and assertions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import qiskit_serverless
from qiskit_serverless import QiskitFunction, QiskitServerlessException, ServerlessClient

if TYPE_CHECKING:
    from collections.abc import Callable

MISSING = "not in it"
OLD = qiskit_serverless.__version__.startswith("0.22.")
"""Shows no details of a refusal to anybody."""
NO_SERVICE: Any = "none of IBM's"
"""Given where a job is stopped: newer clients look for one for many seconds otherwise, and nobody here reads it."""
CELLS: list[tuple[str, Callable[[World], str | None]]] = []


class World:
    """The clients, and what the cells made so far."""

    def __init__(self, host: str, tokens: dict[str, str]) -> None:
        self.host, self.token, self.provider = host, tokens["me"], tokens.get("provider", "")
        self.client: Any = None
        self.made: dict[str, Any] = {}
        self._tokens = tokens

    def of(self, somebody: str) -> Any:
        """Return the client of another user, by what they may do."""
        if somebody not in self.made:
            self.made[somebody] = ServerlessClient(host=self.host, token=self._tokens[somebody], instance="any")
        return self.made[somebody]

    def function(self, name: str) -> Any:
        """Return an uploaded function."""
        if name not in self.made:
            self.made[name] = self.client.upload(
                QiskitFunction(title=name, entrypoint=f"{name}.py", working_dir="programs")
            )
        return self.made[name]

    def over(self, name: str, **arguments: Any) -> Any:
        """Return a job of a program that is over, the same one each time."""
        if f"job of {name}" not in self.made:
            job = self.made[f"job of {name}"] = self.function(name).run(**arguments)
            wait_for(lambda: job.status() in {"DONE", "ERROR"}, f"the end of {name}")
        return self.made[f"job of {name}"]


def cell(name: str) -> Callable[[Any], Any]:
    """Add a cell of the table."""

    def add(check: Any) -> Any:
        CELLS.append((name, check))
        return check

    return add


def wait_for(holds: Callable[[], bool], what: str, seconds: float = 300) -> None:
    """Poll, as a user would, until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"still waiting for {what}"
        time.sleep(0.1)


def told(call: Callable[[], Any], kind: type[Exception] = QiskitServerlessException) -> str:
    """Return the text of a refusal."""
    try:
        value = call()
    except kind as error:
        return str(error)
    raise AssertionError(f"gave {value!r} where a refusal was due")


def refused(call: Callable[[], Any], *texts: str, kind: type[Exception] = QiskitServerlessException) -> None:
    """Assert that a call is refused, with texts that a user sees (but not in versions that show none)."""
    shown = told(call, kind)
    for text in () if OLD else texts:
        assert text in shown, f"{text!r} is not in {shown}"
