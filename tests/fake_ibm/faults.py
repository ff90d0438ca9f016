"""Faults on demand: a request that matches is answered as the fault says instead."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler


class How(Enum):
    """What happens to a request."""

    STATUS = auto()
    """It is answered with `status`."""
    RESET = auto()
    """Its connection is reset without an answer."""
    MIDWAY = auto()
    """Its connection is reset in the middle of the answer."""
    SLOW = auto()
    """It is answered after `delay_s`."""
    LATE = auto()
    """It is carried out at once, and its answer is held back for `delay_s`."""


@dataclass(slots=True)
class Fault:
    """One fault, which goes away after it came `times` times.

    Attributes:
        takes_effect: Whether the request is carried out all the same, and only its answer is lost.
        seen: Set each time that it comes.
    """

    method: str
    path: str
    how: How = How.STATUS
    status: int = 500
    times: int = 1
    takes_effect: bool = False
    retry_after_s: float | None = None
    delay_s: float = 0.0
    code: int = 0
    seen: asyncio.Event = field(default_factory=asyncio.Event)

    def matches(self, request: web.Request, path: str) -> bool:
        """Whether it is for this request; `path` is a regular expression for all of it."""
        return self.times > 0 and request.method == self.method and re.fullmatch(self.path, path) is not None

    async def answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request as the fault says."""
        self.times -= 1
        self.seen.set()
        if self.how is How.SLOW:
            await asyncio.sleep(self.delay_s)
            return await handler(request)
        if self.how is How.LATE:
            late = await handler(request)
            await asyncio.sleep(self.delay_s)
            return late
        answer = await handler(request) if self.takes_effect or self.how is How.MIDWAY else None
        if self.how is How.STATUS:
            headers = {} if self.retry_after_s is None else {"Retry-After": f"{self.retry_after_s:g}"}
            return refusal(self.status, "A fault on demand.", code=self.code, headers=headers)
        if isinstance(answer, web.Response) and self.how is How.MIDWAY:
            return await _half(request, answer)
        return _reset(request)


async def _half(request: web.Request, answer: web.Response) -> web.StreamResponse:
    body = answer.body if isinstance(answer.body, bytes) else b""
    half = web.StreamResponse(status=answer.status, headers={"Content-Length": str(len(body) + 1)})
    await half.prepare(request)
    await half.write(body[: len(body) // 2])
    _reset(request)
    return half


def _reset(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def refusal(status: int, message: str, *, code: int = 0, headers: dict[str, str] | None = None) -> web.Response:
    """Return an error in the API's shape."""
    error = {"code": code or status, "message": message, "solution": "", "more_info": ""}
    return web.json_response({"errors": [error], "trace": "fake"}, status=status, headers=headers)
