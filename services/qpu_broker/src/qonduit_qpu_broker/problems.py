"""Errors that a program's client gets to see, in the runtime API's own shape.

Problem
├── BadRequest      what was sent can't be used; sending it again won't help
├── NotFound        no such thing, or it belongs to another program
├── Conflict        not in this state
└── Unavailable     try again
"""

from __future__ import annotations

import json


class Problem(Exception):  # noqa: N818 -- each is an answer more than an error.
    """An answer other than success."""

    status = 500

    def __init__(self, message: str, *, code: int = 0, solution: str = "", trace: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.status
        self.solution = solution
        self.trace = trace

    def body(self) -> bytes:
        """Return the answer's body as the runtime API words errors."""
        error = {"code": self.code, "message": self.message, "solution": self.solution, "more_info": ""}
        return json.dumps({"errors": [error], "trace": self.trace}).encode()


class BadRequest(Problem):
    """What was sent can't be used."""

    status = 400


class NotFound(Problem):
    """There is no such thing for this program."""

    status = 404


class Conflict(Problem):
    """The thing is not in a state for this."""

    status = 409


class Unavailable(Problem):
    """Something that is needed does not answer now."""

    status = 503
