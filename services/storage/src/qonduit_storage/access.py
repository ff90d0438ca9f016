"""Who may do what: rights come from the ticket alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qonduit_service_kit.tickets import Ticket, TicketError, TicketSigner

from qonduit_storage.errors import ForbiddenError, UnauthenticatedError

if TYPE_CHECKING:
    from collections.abc import Iterable

_TRUSTED_SERVICES = frozenset({"gateway", "qpu_broker"})
_BEARER = "bearer "


class Access:
    """What one caller may do; each method raises ForbiddenError unless allowed."""

    def __init__(self, ticket: Ticket) -> None:
        self._ticket = ticket
        self._trusted = ticket.service in _TRUSTED_SERVICES

    def read_blobs(self) -> None:
        """May this caller read blobs?"""
        self._require(self._ticket.blobs in ("r", "rw"), "read blobs")

    def write_blobs(self) -> None:
        """May this caller store blobs?"""
        self._require(self._ticket.blobs == "rw", "store blobs")

    def read_space(self, space: str) -> None:
        """May this caller read the files of a space?"""
        readable = self._ticket.read_space, self._ticket.provider_space
        self._require(_granted(readable, space), f"read the files of {space!a}")

    def write_space(self, space: str) -> None:
        """May this caller store and delete files in a space?"""
        self._require(_granted((self._ticket.write_space,), space), f"change the files of {space!a}")

    def limit_bytes(self, space: str) -> int:
        """Most bytes that this caller may make the files of a space have together; 0 for no limit."""
        return self._ticket.write_limit_bytes if space == self._ticket.write_space else 0

    def read_log(self, log: str) -> None:
        """May this caller read a log?"""
        self._require(_granted((self._ticket.log,), log), f"read the log {log!a}")

    def write_log(self, log: str) -> None:
        """May this caller append to a log and close it?"""
        writable = self._ticket.log, self._ticket.provider_log
        self._require(_granted(writable, log), f"write the log {log!a}")

    def collect_garbage(self) -> None:
        """May this caller delete blobs and logs, whosever they are?"""
        self._require(self._trusted, "collect garbage")

    def _require(self, allowed: bool, action: str) -> None:  # noqa: FBT001 - Reads well at each call.
        if not (allowed or self._trusted):
            raise ForbiddenError(f"The ticket of this call does not allow to {action}.")


class Doorkeeper:
    """Checks tickets."""

    def __init__(self, key: bytes) -> None:
        self._signer = TicketSigner(key)

    def admit(self, metadata: Iterable[tuple[str, str | bytes]]) -> Access:
        """The rights of the caller that sent this metadata.

        Raises:
            UnauthenticatedError: no ticket, or one that is forged or has ended.
        """
        header = next((value for key, value in metadata if key == "authorization"), "")
        if not isinstance(header, str) or not header.lower().startswith(_BEARER):
            raise UnauthenticatedError(
                "The call carries no ticket. Send it as metadata: 'authorization: Bearer <ticket>'."
            )
        try:
            return Access(self._signer.verify(header[len(_BEARER) :].strip()))
        except TicketError as error:
            raise UnauthenticatedError(
                f"The ticket is not accepted: {error}. Ask the gateway for a new one."
            ) from error


def _granted(names: tuple[str, ...], asked: str) -> bool:
    # A ticket without a right has an empty name for it, and an empty name is asked for by nobody who may have it.
    return bool(asked) and asked in names
