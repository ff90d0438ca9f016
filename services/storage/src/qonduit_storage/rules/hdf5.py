"""Tells an HDF5 file by its signature and superblock, as a stream.

No HDF5 library runs here: external links and virtual datasets make it read other files of the machine.
Layout: HDF5 File Format Specification 3.0, section II.A.
"""

from __future__ import annotations

from qonduit_storage.errors import FileContentError
from qonduit_storage.rules.looks import START_BYTES, hint

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_WINDOW = 96  # More than the largest fixed part of a superblock.
_FIRST_USER_BLOCK = 512
_NEWEST_VERSION = 3
_WIDTHS = (2, 4, 8, 16, 32)
_ADVICE = {"a tar archive": "; name it .tar", "something compressed by gzip": "; if that is of a tar, name it .tar"}


def refusal(text: str) -> FileContentError:
    """The error for content that is no sound HDF5 file."""
    return FileContentError(
        f"The content is not a sound HDF5 file: {text}{'' if text.endswith('?') else '.'} "
        "Under a name that ends in .h5 only HDF5 files are kept; put other files into a tar archive.",
        field="content",
    )


class Hdf5Check:
    """Takes the bytes of a file in order; looks at the places where a superblock may stand: 0, 512, 1024, 2048, ..."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._position = 0
        self._place = 0
        self._window = bytearray()
        self._start = b""
        self._found = False

    def feed(self, piece: bytes | memoryview) -> None:
        """Takes the next bytes.

        Raises:
            FileContentError: there is a superblock that cannot be one.
        """
        if len(self._start) < START_BYTES:
            self._start += piece[: START_BYTES - len(self._start)]
        end = self._position + len(piece)
        while not self._found:
            wanted = self._place + len(self._window)
            if wanted >= end:
                break
            offset = wanted - self._position
            self._window += piece[offset : offset + _WINDOW - len(self._window)]
            if len(self._window) == _WINDOW:
                self._look()
        self._position = end

    def finish(self) -> None:
        """Tells that there are no more bytes.

        Raises:
            FileContentError: no superblock was found.
        """
        if not self._found and self._window.startswith(SIGNATURE):
            raise refusal("it ends in the middle of its superblock; is it cut off?")
        if not self._found:
            raise refusal(f"it carries no HDF5 signature{hint(self._start, _ADVICE)}")

    def _look(self) -> None:
        if self._window.startswith(SIGNATURE):
            self._check_superblock(bytes(self._window))
            self._found = True
            return
        self._place = max(_FIRST_USER_BLOCK, 2 * self._place)
        self._window.clear()

    def _check_superblock(self, block: bytes) -> None:
        version = block[8]
        if version > _NEWEST_VERSION:
            raise refusal(f"its superblock has version {version}, and the newest known is {_NEWEST_VERSION}")
        old = version < 2  # noqa: PLR2004 - the layout changed with version 2.
        width, length_width = (block[13], block[14]) if old else (block[9], block[10])
        if width not in _WIDTHS or length_width not in _WIDTHS:
            raise refusal("its superblock cannot be read")
        addresses = {0: 24, 1: 28}.get(version, 12)
        end_of_file = block[addresses + 2 * width : addresses + 3 * width]
        stored = int.from_bytes(end_of_file, "little")
        if len(end_of_file) == width and stored > self._size_bytes:
            raise refusal(f"it should have {stored:,} bytes and has {self._size_bytes:,}; is it cut off?")
