"""Rules of names: files in spaces, spaces, logs, digests."""

from __future__ import annotations

import re

from qonduit_storage.errors import FileNameError, RequestError

NAME_LIMIT_BYTES = 255
KEY_LIMIT_BYTES = 512
FILE_ENDINGS = (".tar", ".h5")
RULE = (
    "A file name is flat and printable, has at most 255 bytes in UTF-8, does not start with a dot, "
    "and ends in .tar or .h5."
)

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHOWN_CHARS = 80


def check_file_name(name: str) -> None:
    """Refuses what breaks the rules of file names.

    Raises:
        FileNameError: with the rule that is broken, and what to do.
    """
    problem = _file_name_problem(name)
    if problem:
        raise FileNameError(f"The file name {_shown(name)} {problem}. {RULE}", field="name")


def _file_name_problem(name: str) -> str:
    size = len(name.encode(errors="surrogatepass"))
    broken = (
        (not name, "is empty"),
        (size > NAME_LIMIT_BYTES, f"has {size} bytes, {size - NAME_LIMIT_BYTES} too many; choose a shorter one"),
        ("/" in name or "\\" in name, "contains a path separator; there are no folders, so leave the path out"),
        (".." in name, "contains '..'; leave it out"),
        ("\0" in name, "contains a NUL; leave it out"),
        (not name.isprintable(), "contains characters that cannot be printed; leave them out"),
        (name.startswith("."), "starts with a dot; choose another"),
        (
            not name.endswith(FILE_ENDINGS),
            "has another ending; put the file into a tar archive and name that, say, results.tar",
        ),
    )
    return next((problem for is_broken, problem in broken if is_broken), "")


def check_space(space: str) -> None:
    """Refuses what cannot name a space, such as ``users/ada``.

    Raises:
        RequestError: with the rule that is broken.
    """
    parts = space.split("/")
    if not _is_key(space) or any(part in ("", ".", "..") for part in parts):
        raise RequestError(
            f"{_shown(space)} does not name a space. A space is named by printable parts joined by '/', "
            f"such as users/ada, of at most {KEY_LIMIT_BYTES} bytes.",
            field="space",
        )


def check_log_key(log: str) -> None:
    """Refuses what cannot name a log.

    Raises:
        RequestError: with the rule that is broken.
    """
    if not _is_key(log):
        raise RequestError(
            f"{_shown(log)} does not name a log. A log is named by a job's id: printable, "
            f"of at most {KEY_LIMIT_BYTES} bytes.",
            field="log",
        )


def check_digest(digest: str) -> None:
    """Refuses what is not a sha256 in lower-case hexadecimal.

    Raises:
        RequestError: with the rule that is broken.
    """
    if not _DIGEST.fullmatch(digest):
        raise RequestError(
            f"{_shown(digest)} is no digest. A digest is a sha256 in 64 lower-case hexadecimal digits.",
            field="digest",
        )


def _is_key(key: str) -> bool:
    return bool(key) and key.isprintable() and len(key.encode(errors="surrogatepass")) <= KEY_LIMIT_BYTES


def _shown(name: str) -> str:
    """Quotes a name so that nothing in it can hurt a terminal or fill a log."""
    return ascii(name if len(name) <= _SHOWN_CHARS else f"{name[:_SHOWN_CHARS]}...")
