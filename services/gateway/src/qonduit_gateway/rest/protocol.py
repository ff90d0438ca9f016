"""HTTP as it is read from connections."""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

BESIDE_BODIES_BYTES: Final = 64 * 1024


class HttpProtocol(HttpToolsProtocol):
    """Reads in C, and refuses heads and trailers that have no end: the parser would keep all of them in memory."""

    _beside_body_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._beside_body_bytes += len(data)
        super().data_received(data)
        if self._beside_body_bytes > BESIDE_BODIES_BYTES and not self.transport.is_closing():
            self.send_400_response("The request's head is too long.")

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body; what follows is counted anew."""
        self._beside_body_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Take the end of a request."""
        self._beside_body_bytes = 0
        super().on_message_complete()
