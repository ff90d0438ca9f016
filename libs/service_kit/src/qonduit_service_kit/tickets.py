"""Tickets: what a holder may do at another service, signed, short-lived, and readable by whoever holds the key."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import jwt

if TYPE_CHECKING:
    from pathlib import Path

_ALGORITHM = "HS256"
_KEY_BYTES = 32


class TicketError(Exception):
    """The ticket is forged, expired, or no ticket."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """Rights of one holder."""

    user: str
    expires_at: float
    """Seconds since the epoch."""
    job_id: str = ""
    read_space: str = ""
    """Space whose files may be read; '' for none."""
    write_space: str = ""
    write_limit_bytes: int = 0
    """Most bytes that the files of `write_space` may have together; 0 for no limit."""
    blobs: Literal["", "r", "rw"] = ""
    """Content-addressed bytes: read, or read and write."""
    log: str = ""
    """Key of the log that may be appended to."""
    provider_space: str = ""
    """A second space whose files may be read: a provider's, for its function's programs; '' for none."""
    provider_log: str = ""
    """Key of a second log that may be appended to, which only the function's provider reads; '' for none."""
    service: str = ""
    """Set when a service speaks for itself, with all rights."""

    @classmethod
    def lasting(cls, user: str, seconds: float, **rights: str | int) -> Ticket:
        """Return a ticket that ends so many seconds from now."""
        return cls(user=user, expires_at=time.time() + seconds, **rights)  # type: ignore[arg-type]


_FIELDS = tuple(field.name for field in fields(Ticket) if field.name != "expires_at")


class TicketSigner:
    """Signs and checks tickets with a key that services share and programs never see."""

    def __init__(self, key: bytes) -> None:
        if len(key) < _KEY_BYTES:
            raise ValueError(f"a ticket key has at least {_KEY_BYTES} bytes")
        self._key = key

    def sign(self, ticket: Ticket) -> str:
        """Return the ticket as text."""
        claims = {name: value for name in _FIELDS if (value := getattr(ticket, name)) or name == "user"}
        return jwt.encode({**claims, "exp": ticket.expires_at}, self._key, algorithm=_ALGORITHM)

    def verify(self, text: str) -> Ticket:
        """Return the ticket in a text; TicketError if it was not signed with this key or has ended."""
        try:
            claims = jwt.decode(text, self._key, algorithms=[_ALGORITHM], options={"require": ["exp"]})
            expires_at = float(claims["exp"])
            return Ticket(expires_at=expires_at, **{name: claims[name] for name in _FIELDS if name in claims})
        except jwt.ExpiredSignatureError:
            raise TicketError("the ticket has expired") from None
        except (jwt.InvalidTokenError, TypeError, ValueError):
            raise TicketError("this is no ticket of this installation") from None


def load_or_create_key(path: Path) -> bytes:
    """Return the key in a file, made with mode 0600 if missing; services that race for it agree on one.

    Raises:
        ValueError: The file holds no key.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        mine = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        with os.fdopen(os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(_KEY_BYTES) + "\n")
        try:
            os.link(mine, path)  # Unlike rename, it fails if another service was first.
        except FileExistsError:
            pass
        finally:
            mine.unlink()
    try:
        key = bytes.fromhex(path.read_text().strip())
    except ValueError:
        key = b""
    if len(key) < _KEY_BYTES:
        raise ValueError(f"{path} holds no key: expected {2 * _KEY_BYTES} or more hexadecimal digits")
    return key
