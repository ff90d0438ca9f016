"""How many connections one program may hold to its endpoint."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from qonduit_worker.qpu_endpoint.problems import document

if TYPE_CHECKING:
    import socket

    from aiohttp import web

MAX_CONNECTIONS: Final = 256
"""Each takes a descriptor of the agent, which all sandboxes share."""


async def listen(server: web.Server, listener: socket.socket) -> asyncio.Server:
    """Serve on a listening socket; a connection too many is told so and closed."""

    def protocol() -> asyncio.BaseProtocol:
        return _Refusal() if len(server.connections) >= MAX_CONNECTIONS else server()

    return await asyncio.get_running_loop().create_server(protocol, sock=listener)


class _Refusal(asyncio.Protocol):
    """Answers with 503, which the client takes for a reason to try again later."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        body = document(
            503,
            f"This program has {MAX_CONNECTIONS} connections to its QPU endpoint.",
            solution="Use one QiskitRuntimeService for all threads, or fewer threads at a time.",
        )
        head = (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        stream = cast("asyncio.Transport", transport)
        stream.write(head.encode() + body)
        stream.close()
