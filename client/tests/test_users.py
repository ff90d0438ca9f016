"""Tokens, and users who are shut out, in the SDK and on the command line, against a gateway in this process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from fake_users import ME, NOW
from qonduit import ServerlessClient, cli
from qonduit import exceptions as errors
from qonduit_api.v1 import cluster_pb2 as pb

if TYPE_CHECKING:
    from conftest import Run
    from fake_gateway import FakeGateway


@pytest.fixture(autouse=True)
def people(gateway: FakeGateway) -> None:
    gateway.state.people.users["ada"] = pb.User(name="ada")
    gateway.state.people.tokens = {
        ME: [pb.UserToken(token_id="aaaaaaaa", label="bootstrap", create_time=NOW)],
        "ada": [pb.UserToken(token_id="bbbbbbbb", label="created", create_time=NOW)],
    }


def test_a_token_is_made_listed_and_withdrawn(client: ServerlessClient) -> None:
    made = client.cluster.make_token("ada", label="laptop")
    assert (made.listed.label, made.withdrawn, made.bootstrap_stays) == ("laptop", 0, False)
    assert made.text not in repr(made), "a token must not get into logs"
    assert client.cluster.tokens("ada")[1] == made.listed
    client.cluster.withdraw_token("bbbbbbbb", "ada")
    assert client.cluster.tokens("ada") == [made.listed]
    assert [token.label for token in client.cluster.tokens()] == ["bootstrap"]


def test_refusals_have_a_class_each(client: ServerlessClient) -> None:
    with pytest.raises(errors.NotFoundError, match="List them"):
        client.cluster.withdraw_token("cccccccc")
    with pytest.raises(errors.ConflictError, match="another one first"):
        client.cluster.withdraw_token("aaaaaaaa")
    with pytest.raises(errors.InvalidRequestError, match="Not this label"):
        client.cluster.make_token(label="bootstrap")
    with pytest.raises(errors.NotFoundError, match="no user 'eve'"):
        client.cluster.disable("eve")


def test_the_token_alone_goes_to_standard_output(run: Run) -> None:
    code, out, said = run("users", "token", "ada", "--label", "laptop")
    assert (code, out) == (cli.OK, "token-1\n")
    assert said == "The token 00000001 of ada, shown only now:\n"
    assert run("users", "token")[1:] == ("token-1\n", "The token 00000001 of yours, shown only now:\n")


def test_what_a_replacement_leaves_is_said(run: Run) -> None:
    assert "1 other was withdrawn.\n" in run("users", "token", "ada", "--replace")[2]
    _, out, said = run("users", "token", "--replace")
    assert out == "token-1\n"
    assert "0 others were withdrawn." in said
    assert "ADMIN_TOKEN_FILE" in said


def test_tokens_are_listed_and_withdrawn_by_their_ids(run: Run) -> None:
    run("users", "token", "--label", "laptop")
    assert [line.split()[:2] for line in run("users", "tokens")[1].splitlines()[1:]] == [
        ["aaaaaaaa", "bootstrap"],
        ["00000001", "laptop"],
    ]
    (token,) = json.loads(run("users", "tokens", "ada", "--json")[1])
    assert token == {"token_id": "bbbbbbbb", "label": "created", "created": "2027-01-15T08:00:00+00:00"}
    assert run("users", "withdraw", "00000001")[:2] == (cli.OK, "Token 00000001 is withdrawn.\n")
    assert run("users", "withdraw", "ada", "bbbbbbbb")[0] == cli.OK
    assert run("users", "tokens", "ada")[1] == "none\n"


def test_a_user_is_disabled_and_enabled(run: Run, gateway: FakeGateway) -> None:
    gateway.state.people.jobs["ada"] = 2
    said = run("users", "disable", "ada", "--reason", "left the lab")[1]
    assert said == "ada is disabled; their jobs go on.\n"
    assert "disabled: left the lab" in run("users", "ls")[1]
    (ada,) = json.loads(run("users", "ls", "--json")[1])
    assert (ada["disabled"], ada["disabled_text"]) == (True, "left the lab")
    said = run("users", "disable", "ada", "--cancel-jobs")[1]
    assert said == "ada is disabled; 2 jobs of theirs were canceled.\n"
    assert run("users", "enable", "ada")[1] == "ada is enabled.\n"
    assert "disabled" not in run("users", "ls")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["users", "token", "eve"], cli.FAILED, "no user 'eve'"),
        (["users", "tokens", "eve"], cli.FAILED, "no user 'eve'"),
        (["users", "withdraw", "ada", "cccccccc"], cli.FAILED, "List them"),
        (["users", "withdraw", "aaaaaaaa"], cli.FAILED, "another one first"),
        (["users", "withdraw"], cli.USAGE, "TOKEN-ID"),
        (["users", "withdraw", "ada", "bbbbbbbb", "cccccccc"], cli.USAGE, "one user at most"),
        (["users", "disable", "eve"], cli.FAILED, "no user 'eve'"),
        (["users", "enable", "eve"], cli.FAILED, "no user 'eve'"),
    ],
)
def test_bad_input_is_told_in_a_line(run: Run, arguments: list[str], code: int, text: str) -> None:
    got, _, complaint = run(*arguments)
    assert (got, text in complaint) == (code, True), complaint
    assert "Traceback" not in complaint
