"""Users of a gateway in this process, and their tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fake_refusals import fail
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2  # type: ignore[import-untyped]
from qonduit_api.v1 import cluster_pb2 as pb
from qonduit_api.v1 import cluster_pb2_grpc

if TYPE_CHECKING:
    import grpc

NOW = Timestamp(seconds=1_800_000_000)
ME = "me"


@dataclass
class UserWorld:
    users: dict[str, pb.User] = field(default_factory=dict)
    tokens: dict[str, list[pb.UserToken]] = field(default_factory=dict)
    """By user; the newest last."""
    jobs: dict[str, int] = field(default_factory=dict)
    """How many of a user's are not over."""


class FakeUsers(cluster_pb2_grpc.ClusterServiceServicer):
    """The calls about tokens, and those that shut users out."""

    def __init__(self, people: UserWorld) -> None:
        self.people = people

    def CreateToken(  # noqa: N802
        self, request: pb.CreateTokenRequest, context: grpc.ServicerContext
    ) -> pb.CreateTokenResponse:
        if request.label == "bootstrap":
            fail(context, code_pb2.INVALID_ARGUMENT, "INVALID_LABEL", "Not this label.", label="Not this label.")
        before = self._tokens(request.name, context)
        kept = [token for token in before if token.label == "bootstrap" or not request.replace]
        made = pb.UserToken(token_id=f"0000000{len(before)}", label=request.label, create_time=NOW)
        self.people.tokens[request.name or ME] = [*kept, made]
        return pb.CreateTokenResponse(
            token=f"token-{len(before)}",
            listed=made,
            withdrawn=len(before) - len(kept),
            bootstrap_stays=any(token.label == "bootstrap" for token in kept),
        )

    def ListTokens(  # noqa: N802
        self, request: pb.ListTokensRequest, context: grpc.ServicerContext
    ) -> pb.ListTokensResponse:
        return pb.ListTokensResponse(tokens=self._tokens(request.name, context))

    def WithdrawToken(  # noqa: N802
        self, request: pb.WithdrawTokenRequest, context: grpc.ServicerContext
    ) -> pb.WithdrawTokenResponse:
        before = self._tokens(request.name, context)
        kept = [token for token in before if token.token_id != request.token_id]
        if kept == before:
            fail(context, code_pb2.NOT_FOUND, "TOKEN_NOT_FOUND", f"There is no token {request.token_id}. List them.")
        if not kept and request.name in {"", ME}:
            fail(context, code_pb2.FAILED_PRECONDITION, "LAST_TOKEN", "Make another one first.")
        self.people.tokens[request.name or ME] = kept
        return pb.WithdrawTokenResponse()

    def DisableUser(  # noqa: N802
        self, request: pb.DisableUserRequest, context: grpc.ServicerContext
    ) -> pb.DisableUserResponse:
        user = self._user(request.name, context)
        user.disabled, user.disabled_text = True, request.text
        canceled = self.people.jobs.pop(request.name, 0) if request.cancel_jobs else 0
        return pb.DisableUserResponse(user=user, canceled_jobs=canceled)

    def EnableUser(  # noqa: N802
        self, request: pb.EnableUserRequest, context: grpc.ServicerContext
    ) -> pb.EnableUserResponse:
        user = self._user(request.name, context)
        user.disabled, user.disabled_text = False, ""
        return pb.EnableUserResponse(user=user)

    def _tokens(self, name: str, context: grpc.ServicerContext) -> list[pb.UserToken]:
        if name not in {"", ME}:
            self._user(name, context)
        return self.people.tokens.get(name or ME, [])

    def _user(self, name: str, context: grpc.ServicerContext) -> pb.User:
        if name not in self.people.users:
            fail(context, code_pb2.NOT_FOUND, "USER_NOT_FOUND", f"There is no user {name!r}.")
        return self.people.users[name]
