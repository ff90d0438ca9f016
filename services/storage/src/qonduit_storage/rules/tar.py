"""Reads a tar as a stream, to its end, keeping nothing of it.

The standard library's ``tarfile`` accepts archives that end in the middle of a member, so this is a reader of its
own: it follows headers, checksums and sizes (POSIX.1-1988 ustar, POSIX.1-2001 pax, GNU long names, base-256
numbers), passes over contents, and never looks at what a member would do when unpacked.
"""

from __future__ import annotations

import re

from qonduit_storage.errors import FileContentError
from qonduit_storage.rules.looks import hint, is_tar_header

BLOCK = 512
METADATA_LIMIT = 1024 * 1024

_CHECKSUM = slice(148, 156)
_SIZE = slice(124, 136)
_TYPE = 156
_PAX_LOCAL, _PAX_GLOBAL, _PAX_SOLARIS = b"x", b"g", b"X"
_GNU_NAMES = (b"L", b"K")
_GNU_SPARSE = b"S"
_WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
_ZEROS = bytes(BLOCK)
_COMPRESS = "; use gzip or no compression"
_ADVICE = {
    "an HDF5 file": "; name it .h5",
    "something compressed by gzip": "; compress it once",
    "something compressed by bzip2": _COMPRESS,
    "something compressed by xz": _COMPRESS,
    "something compressed by zstd": _COMPRESS,
}


def refusal(text: str) -> FileContentError:
    """The error for content that is no sound tar archive."""
    return FileContentError(
        f"The content is not a sound tar archive: {text}{'' if text.endswith('?') else '.'} "
        "Under a name that ends in .tar only tar archives are kept, plain or compressed by gzip; make one with "
        "`tar cf` or Python's tarfile.",
        field="content",
    )


class TarCheck:
    """Takes the bytes of a tar in order and refuses them as soon as they cannot be one."""

    def __init__(self) -> None:
        self._position = 0
        self._block = bytearray()
        self._content_left = 0
        self._metadata: bytearray | None = None
        self._metadata_type = b""
        self._metadata_left = 0
        self._size_of_next: int | None = None
        self._zero_blocks = 0
        self._seen_header = False

    def feed(self, piece: bytes | memoryview) -> None:
        """Takes the next bytes.

        Raises:
            FileContentError: they cannot be part of a tar.
        """
        view = memoryview(piece)
        while view:
            taken = self._take(view)
            self._position += taken
            view = view[taken:]

    def finish(self) -> None:
        """Tells that there are no more bytes.

        Raises:
            FileContentError: the archive is not complete.
        """
        if self._block and not self._seen_header:
            _check_beginning(bytes(self._block))
        if self._content_left or self._metadata_left or self._block:
            raise refusal(f"it ends in the middle of a member, after {self._position} bytes; is it cut off?")
        if self._metadata_type not in (b"", _PAX_GLOBAL) or self._size_of_next is not None:
            raise refusal(f"it ends after an extended header, after {self._position} bytes; is it cut off?")
        if not self._seen_header and self._zero_blocks < 2:  # noqa: PLR2004 - an archive ends in two blocks of zeros.
            raise refusal("it holds no member and no end mark")

    def _take(self, view: memoryview) -> int:
        if self._metadata_left:
            return self._take_metadata(view)
        if self._content_left:
            taken = min(self._content_left, len(view))
            self._content_left -= taken
            return taken
        if self._zero_blocks >= 2:  # noqa: PLR2004 - as above.
            return self._take_padding(view)
        taken = min(BLOCK - len(self._block), len(view))
        self._block += view[:taken]
        if len(self._block) == BLOCK:
            block, self._block = bytes(self._block), bytearray()
            self._read_block(block)
        return taken

    def _take_padding(self, view: memoryview) -> int:
        if any(view):
            raise refusal(
                f"other bytes follow its end mark at about byte {self._position}; are two archives glued together?"
            )
        return len(view)

    def _take_metadata(self, view: memoryview) -> int:
        taken = min(self._metadata_left, len(view))
        self._metadata_left -= taken
        if self._metadata is not None:
            self._metadata += view[:taken]
            if not self._metadata_left:
                self._read_metadata(bytes(self._metadata))
                self._metadata = None
        return taken

    def _read_block(self, block: bytes) -> None:
        if block == _ZEROS:
            self._zero_blocks += 1
            return
        if self._zero_blocks:
            raise refusal(f"a single block of zeros stands at byte {self._position - BLOCK} between members")
        self._read_header(block)

    def _read_header(self, block: bytes) -> None:
        start = self._position
        self._check_sum(block)
        self._seen_header = True
        kind = block[_TYPE : _TYPE + 1]
        size = _number(block[_SIZE], start)
        if kind == _GNU_SPARSE:
            raise _sparse()
        if kind in (_PAX_LOCAL, _PAX_GLOBAL, _PAX_SOLARIS, *_GNU_NAMES):
            self._expect_metadata(kind, size, start)
            return
        self._metadata_type = b""
        if self._size_of_next is not None:
            size, self._size_of_next = self._size_of_next, None
        folder_of_old = kind == b"\0" and block[:100].rstrip(b"\0").endswith(b"/")
        if kind not in _WITHOUT_CONTENT and not folder_of_old:
            self._content_left = _padded(size)

    def _expect_metadata(self, kind: bytes, size: int, start: int) -> None:
        if size > METADATA_LIMIT:
            raise refusal(f"the extended header at byte {start} is larger than {METADATA_LIMIT} bytes")
        self._metadata_type = kind
        self._metadata = bytearray() if kind not in _GNU_NAMES else None
        self._metadata_left = size
        # The padding up to the next block is passed over as content, once the metadata itself is read.
        self._content_left = _padded(size) - size

    def _read_metadata(self, body: bytes) -> None:
        values = _pax_values(body)
        if any(key.startswith(b"GNU.sparse") for key in values):
            raise _sparse()
        size = values.get(b"size")
        if size is None:
            return
        # Readers disagree about sizes for all members that follow, so two of them would see two different archives.
        if self._metadata_type == _PAX_GLOBAL or not size.isdigit():
            raise refusal("an extended header sets a size that readers understand in different ways")
        self._size_of_next = int(size[:20])

    def _check_sum(self, block: bytes) -> None:
        found = _OCTAL.fullmatch(block[_CHECKSUM])
        stored = int(found[1], 8) if found and found[1] else -1
        if stored == _unsigned_sum(block) or stored == _signed_sum(block):
            return
        if not self._seen_header and is_tar_header(block):
            raise refusal("the checksum of its first header is wrong; was the file damaged?")
        if not self._seen_header:
            raise refusal(f"it does not start with a tar header{hint(block, _ADVICE)}")
        raise refusal(f"the header at byte {self._position} has a wrong checksum; was the file damaged?")


def _check_beginning(cut: bytes) -> None:
    """Refuses what ends before its first header does, and is known for something else than a tar."""
    looks = "" if is_tar_header(cut) else hint(cut, _ADVICE)
    if looks:
        raise refusal(f"it does not start with a tar header{looks}")


def _unsigned_sum(block: bytes) -> int:
    """The sum of a header whose checksum counts as spaces."""
    return sum(block) - sum(block[_CHECKSUM]) + 8 * ord(" ")


def _signed_sum(block: bytes) -> int:
    """The same with bytes taken as signed, as some old programs did."""
    negative = sum(byte > 127 for byte in block[:148] + block[156:])  # noqa: PLR2004 - the largest signed byte.
    return _unsigned_sum(block) - 256 * negative


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _number(field: bytes, start: int) -> int:
    if field[0] == 0x80:  # noqa: PLR2004 - GNU's mark of a number in base 256.
        return int.from_bytes(field[1:], "big")
    octal = _OCTAL.fullmatch(field.split(b"\0", 1)[0])
    if octal is None:
        raise refusal(f"the header at about byte {start} has a size that is no number")
    return int(octal[1] or b"0", 8)


def _pax_values(body: bytes) -> dict[bytes, bytes]:
    """Reads ``length key=value`` records; the length counts the whole record."""
    values: dict[bytes, bytes] = {}
    position = 0
    while position < len(body):
        digits, found, _ = body[position : position + 8].partition(b" ")
        length = int(digits) if found and digits.isdigit() else 0
        record = body[position : position + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not equals or len(record) != length or not record.endswith(b"\n"):
            raise refusal("an extended header cannot be read")
        values[key] = value
        position += length
    return values


def _sparse() -> FileContentError:
    return refusal("it holds a sparse member, which may grow without limit when unpacked; make it without --sparse")
