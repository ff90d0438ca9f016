"""Schemas are users' own, and a small one can take years to check: it is done in a process that can be ended.

The process is started when it is first needed, holds nothing, and is ended when a check takes too long; the next one
finds another.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from contextlib import suppress
from typing import Any, Final

from qonduit_gateway.functions import schema
from qonduit_gateway.functions.schema import ArgumentsError

ARGUMENTS_BYTES: Final = 16 * 1024 * 1024
"""Most JSON that is checked; large arrays and circuits are behind it and do not count."""
_MEMORY_BYTES: Final = 1024**3
_LIMIT_S: Final = 5.0
_START_S: Final = 30.0
_ANSWER_BYTES: Final = 256 * 1024
_TOO_LONG: Final = f"to check it takes longer than {_LIMIT_S:g} s; make the schema simpler"


class SchemaProcess:
    """One process that checks one thing at a time. A part: start and stop."""

    def __init__(self, *, limit_s: float = _LIMIT_S) -> None:
        self._limit_s = limit_s
        self._process: asyncio.subprocess.Process | None = None
        self._busy = asyncio.Lock()

    async def start(self) -> None:
        """Do nothing yet: most functions have no schema."""

    async def stop(self) -> None:
        """End the process; safe to call twice."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def broken_rule(self, text: str) -> str:
        """Return what is wrong with a schema, in a sentence that says what to do; empty when it is good."""
        if len(text.encode()) > schema.LIMIT_BYTES:
            return schema.too_long()
        answer = await self._ask({"schema": text}, b"")
        return f"This schema can't be used: {_TOO_LONG}." if answer is None else str(answer["rule"])

    async def check(self, text: str, arguments: bytes) -> None:
        """Raise ArgumentsError unless arguments, a JSON text, fit a schema."""
        if len(arguments) > ARGUMENTS_BYTES:
            most = f"they have more than the {ARGUMENTS_BYTES:,} bytes of JSON that are checked at most"
            raise ArgumentsError({"arguments": most})
        answer = await self._ask({"schema": text, "size": len(arguments)}, arguments)
        violations = {"arguments": _TOO_LONG} if answer is None else answer["violations"]
        if violations:
            raise ArgumentsError(violations)

    async def _ask(self, request: dict[str, Any], body: bytes) -> dict[str, Any] | None:
        """Return the answer; None when there was none in time, or the process ended over it."""
        async with self._busy:
            try:
                async with asyncio.timeout(_START_S):
                    process = await self._ready()
                async with asyncio.timeout(self._limit_s):
                    return await _exchange(process, json.dumps(request).encode() + b"\n" + body)
            except (TimeoutError, ConnectionError, ValueError, asyncio.IncompleteReadError):
                await self.stop()
                return None
            except asyncio.CancelledError:
                await self.stop()  # Half a request is in its pipe.
                raise

    async def _ready(self) -> asyncio.subprocess.Process:
        process = self._process
        if process is None or process.returncode is not None:
            process = self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", __name__),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={"PATH": os.defpath, "LANG": "C.UTF-8"},
                limit=_ANSWER_BYTES,
            )
            await _line(process)  # It is up: what it takes to start does not count for the first check.
        return process


async def _exchange(process: asyncio.subprocess.Process, request: bytes) -> dict[str, Any]:
    if process.stdin is None:
        raise ConnectionError("it has no stdin")
    process.stdin.write(request)
    await process.stdin.drain()
    answer: dict[str, Any] = json.loads(await _line(process))
    return answer


async def _line(process: asyncio.subprocess.Process) -> bytes:
    if process.stdout is None:
        raise ConnectionError("it has no stdout")
    return await process.stdout.readuntil(b"\n")


def main() -> None:
    """Answer until stdin ends, which it does with the gateway."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    _answer(answers, {"ready": True})
    while line := requests.readline():
        request = json.loads(line)
        if "size" not in request:
            _answer(answers, {"rule": schema.broken_rule(request["schema"])})
            continue
        try:
            schema.check(request["schema"], requests.read(request["size"]))
        except ArgumentsError as error:
            _answer(answers, {"violations": error.violations})
        else:
            _answer(answers, {"violations": {}})


def _answer(answers: Any, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
