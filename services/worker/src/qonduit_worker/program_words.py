"""What a driver's program says of its job, by whichever way it says it: its stage, its result, its errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.messages import Reason, Stage, ToldError

from qonduit_worker.outcome import clip
from qonduit_worker.program_channel import RequestError, text_field

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from typing import Any

    from qonduit_service_kit.messages import JobSpec

    from qonduit_worker.accounting import Accounts
    from qonduit_worker.outcome import Verdict
    from qonduit_worker.program_channel import ProgramServer, ProgramSession
    from qonduit_worker.program_ops import ResultOps

MOST_ERRORS: Final = 100
"""Told in one attempt: each is kept in the job's history."""
_NAME_LENGTH: Final = 200
_TEXT_LENGTH: Final = 4000
_MOST_CHARACTERS: Final = 1024**2
"""Of any text that comes in: what is longer is no text for people."""
_MOST_TRACEBACK: Final = 64 * 1024
_MOST_NESTED: Final = 50
"""Deeper values can't be read by everybody: who reads JSON has only so much room for it."""
_CUT: Final = " [...]"
_FIELDS: Final = ("code", "message", "exception", "args")
_OF_ITS_AUTHOR: Final = frozenset({Reason.PROGRAM_ERROR, Reason.RESULT_NOT_SERIALIZABLE})
"""Ends that are told in words of the program."""


class ProgramWords:
    """Takes what the program of one attempt says."""

    def __init__(
        self, spec: JobSpec, accounts: Accounts, results: ResultOps, note: Callable[[str], Awaitable[None]]
    ) -> None:
        self.spec = spec
        self.results = results
        self.traceback = ""
        """Of the exception that ended the program."""
        self.ended_with: ToldError | None = None
        """What that exception told its users, if it told them anything."""
        self.last_told: ToldError | None = None
        self._accounts = accounts
        self._note = note
        self._told = 0

    def register(self, server: ProgramServer) -> None:
        """Answer what is said on a sandbox's channel."""
        server.register("stage", self._stage)
        server.register("send_error", self._send_error)
        server.register("error_text", self._error_text)
        self.results.register(server)

    @property
    def function(self) -> tuple[str, str]:
        """Provider, if it has one, and title of the job's function."""
        return self.spec.provider, self.spec.function_title

    @property
    def submitted_at(self) -> float:
        """When the job was accepted."""
        return self.spec.submitted_at

    @property
    def stage(self) -> Stage:
        """The present stage."""
        return self._accounts.stage

    def set_stage(self, stage: Stage) -> None:
        """Take the program's own stage."""
        self._accounts.program_says(stage)

    async def keep_result(self, data: bytes) -> None:
        """Make bytes the result."""
        await self.results.keep(data)

    async def tell(self, code: str, message: str, exception: str, args: str = "") -> bool:
        """Tell the job's users an error; False once there were too many."""
        error = told_error(code, message, exception, args)
        self._told += 1
        if self._told > MOST_ERRORS:
            if self._told == MOST_ERRORS + 1:
                await self._note(f"a program tells at most {MOST_ERRORS} errors: this one and later ones are not kept")
            return False
        self.last_told = error
        self._accounts.program_told(error)
        return True

    def end_of(self, verdict: Verdict) -> tuple[str, ToldError | None]:
        """Return the text of an end for the job's users, and the error that the program told, if it ended with one.

        Of a function of their own they get all, of a provider's what it tells them: the rest is in its own log.
        """
        failed = verdict.reason is Reason.PROGRAM_ERROR
        error = self.ended_with if failed else None
        if not self.spec.provider or not (verdict.for_author or verdict.reason in _OF_ITS_AUTHOR):
            return verdict.text, error
        error = error or (self.last_told if failed else None)
        if error is not None:
            return wording(error), error
        return f"The function failed. Its provider can see why: tell them the id of this job, {self.spec.job_id}.", None

    async def _stage(self, _: ProgramSession, fields: Mapping[str, Any]) -> None:
        name = text_field(fields, "stage", most=64)
        if name not in Stage.__members__:
            raise RequestError("INVALID_REQUEST", f"there is no stage {name!r}")
        self.set_stage(Stage[name])

    async def _send_error(self, _: ProgramSession, fields: Mapping[str, Any]) -> bool:
        return await self.tell(*_error_fields(fields))

    async def _error_text(self, _: ProgramSession, fields: Mapping[str, Any]) -> None:
        self.traceback = clip(text_field(fields, "text", most=_MOST_TRACEBACK))
        self.ended_with = told_error(*_error_fields(fields)) if "code" in fields else None


def _error_fields(fields: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(text_field(fields, name, most=_MOST_CHARACTERS) for name in _FIELDS)


def told_error(code: str, message: str, exception: str, args: str = "") -> ToldError:
    """Return an error within the bounds of a message: what is too long is cut, and so is what `args` has of JSON."""
    more = _readable(args) if args else ""
    return ToldError(_cut(code, _NAME_LENGTH), _cut(message, _TEXT_LENGTH), _cut(exception, _NAME_LENGTH), more)


def _cut(text: str, most: int) -> str:
    text = text.strip().encode(errors="replace").decode()
    return text if len(text) <= most else text[: most - len(_CUT)] + _CUT


def _readable(args: str) -> str:
    """Return JSON that everybody can read; what is none, too long or too deep becomes a text in JSON."""
    try:
        value = json.loads(args, parse_constant=_refuse)
    except (ValueError, RecursionError):
        value = args
    if not _is_flat(value, _MOST_NESTED):
        value = args
    made = json.dumps(value, ensure_ascii=False).encode(errors="replace").decode()
    return made if len(made) <= _TEXT_LENGTH else json.dumps(_cut(made, _TEXT_LENGTH // 2), ensure_ascii=False)


def _is_flat(value: object, most: int) -> bool:
    """Tell whether lists and objects are nested no deeper than so many times."""
    if not isinstance(value, dict | list):
        return True
    return most > 0 and all(_is_flat(each, most - 1) for each in (value.values() if isinstance(value, dict) else value))


def _refuse(constant: str) -> None:
    """NaN and the infinities, which Python writes, are no JSON to others."""
    raise ValueError(constant)


def wording(error: ToldError) -> str:
    """Return an error as people read it."""
    behind = f"\n{error.args}" if error.args else ""
    return f"[{error.code}] {error.message}{behind}"
