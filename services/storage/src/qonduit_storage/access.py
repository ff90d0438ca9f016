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
        self._require(_same(self._ticket.read_space, space), f"read the files of {space!a}")

    def write_space(self, space: str) -> None:
        """May this caller store and delete files in a space?"""
        self._require(_same(self._ticket.write_space, space), f"change the files of {space!a}")

    @property
    def space_limit_bytes(self) -> int:
        """Most bytes that the files of the space that may be written may have together; 0 for no limit."""
        return self._ticket.write_limit_bytes

    def use_log(self, log: str) -> None:
        """May this caller read, append to and close a log?"""
        self._require(_same(self._ticket.log, log), f"use the log {log!a}")

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


def _same(granted: str, asked: str) -> bool:
    return bool(granted) and granted == asked
