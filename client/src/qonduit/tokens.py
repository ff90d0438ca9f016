"""What lets a user in, as it is told of."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from qonduit_api.v1 import cluster_pb2 as pb


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a user, without what it is made of."""

    token_id: str
    """What names it among its user's, and gives nothing of it away."""
    label: str
    """What it is for, as its maker said; "created" for a user's first, "bootstrap" for the one in the server's file."""
    created: datetime


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was made just now."""

    text: str = field(repr=False)
    """The token itself, which nobody is told again."""
    listed: Token
    withdrawn: int
    """How many others were withdrawn."""
    bootstrap_stays: bool
    """Whether its user also has the token in the server's file, which is withdrawn by a new one there alone."""


def token_of(token: pb.UserToken) -> Token:
    """Return how a token is listed."""
    return Token(token.token_id, token.label, token.create_time.ToDatetime(tzinfo=UTC))


def new_token_of(made: pb.CreateTokenResponse) -> NewToken:
    """Return a token that was made."""
    return NewToken(made.token, token_of(made.listed), made.withdrawn, made.bootstrap_stays)
