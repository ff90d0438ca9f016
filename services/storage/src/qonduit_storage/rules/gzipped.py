"""Reads a gzip-compressed tar as a stream, with a limit on how far it may unfold."""

from __future__ import annotations

import zlib

from qonduit_storage.rules.tar import TarCheck, refusal

STEP = 1024 * 1024
_GZIP = 31  # zlib's number for "gzip framing, largest window".


class GzipTarCheck:
    """Takes the bytes of a compressed tar in order.

    A bomb is met by counting: what comes out may be ``ratio`` times what went in (never less than ``free_bytes`` and
    never more than ``limit_bytes``), and never more than a mebibyte of it is in memory.
    """

    def __init__(self, *, free_bytes: int, limit_bytes: int, ratio: int = 100) -> None:
        self._free_bytes = free_bytes
        self._limit_bytes = limit_bytes
        self._ratio = ratio
        self._tar = TarCheck()
        self._taken = 0
        self._unfolded = 0
        self._stream = zlib.decompressobj(_GZIP)
        self._between_members = False

    def feed(self, piece: bytes | memoryview) -> None:
        """Takes the next bytes.

        Raises:
            FileContentError: they are no gzip, unfold too far, or what unfolds is no tar.
        """
        self._taken += len(piece)
        left = bytes(piece)
        while left:
            if self._between_members:
                # Both ``gzip`` and Python pass over zeros after a member, and read one member after another.
                left = left.lstrip(b"\0")
                if not left:
                    return
                self._stream, self._between_members = zlib.decompressobj(_GZIP), False
            self._unfold(left)
            if self._stream.eof:
                left, self._between_members = self._stream.unused_data, True
            else:
                left = self._stream.unconsumed_tail

    def finish(self) -> None:
        """Tells that there are no more bytes.

        Raises:
            FileContentError: the compression or the archive is not complete.
        """
        while not self._stream.eof and self._unfold(b""):
            pass
        if not self._stream.eof:
            raise refusal("its gzip compression ends too early; is it cut off?")
        self._tar.finish()

    def _unfold(self, piece: bytes) -> int:
        try:
            content = self._stream.decompress(piece, STEP)
        except zlib.error as error:
            raise refusal("its gzip compression is damaged") from error
        self._unfolded += len(content)
        allowed = min(max(self._free_bytes, self._ratio * self._taken), self._limit_bytes)
        if self._unfolded > allowed:
            raise refusal(
                f"{self._taken:,} compressed bytes unfold to more than {allowed:,}, which a gzip bomb would do; "
                "store it without compression"
            )
        self._tar.feed(content)
        return len(content)
