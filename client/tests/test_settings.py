"""Where the server is found, and which word counts most."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from qonduit import IBMServerlessClient, ServerlessClient
from qonduit.exceptions import ConfigurationError
from qonduit.settings import Target, find_target, user_profile_path, write_profile

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = user_profile_path()
    write_profile(path, Target("127.0.0.1:1111", "profile-token"), tmp_path / "stack")
    return path


def test_without_anything_the_error_says_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match="qonduit up"):
        ServerlessClient()
    with pytest.raises(ConfigurationError, match=r"No token for 127\.0\.0\.1:1"):
        ServerlessClient(host="127.0.0.1:1")


def test_a_profile_is_enough_and_nobody_else_reads_it(profile: Path) -> None:
    assert find_target() == Target("127.0.0.1:1111", "profile-token", origin=str(profile))
    assert profile.stat().st_mode & 0o777 == 0o600
    assert "profile-token" not in repr(find_target())


def test_the_environment_wins_over_the_profile_and_arguments_over_both(
    profile: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    del profile
    assert find_target(token="mine").token == "mine"
    monkeypatch.setenv("QONDUIT_HOME", str(tmp_path / "other"))
    write_profile(tmp_path / "other" / "profile.json", Target("127.0.0.1:2222", "other-token"), tmp_path / "other")
    assert find_target().address == "127.0.0.1:2222"
    monkeypatch.setenv("QONDUIT_PROFILE", str(user_profile_path()))
    assert find_target().address == "127.0.0.1:1111"
    monkeypatch.setenv("QONDUIT_ADDRESS", "127.0.0.1:3333")
    monkeypatch.setenv("QONDUIT_TOKEN", "environment-token")
    assert (find_target().address, find_target().token) == ("127.0.0.1:3333", "environment-token")
    assert find_target("127.0.0.1:4444", "mine").address == "127.0.0.1:4444"


def test_a_profiles_token_goes_to_the_profiles_server_alone(profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del profile
    assert find_target("http://127.0.0.1:1111").token == "profile-token"
    with pytest.raises(ConfigurationError, match="No token"):
        find_target("https://elsewhere.example:443")
    monkeypatch.setenv("QONDUIT_ADDRESS", "elsewhere.example:443")
    with pytest.raises(ConfigurationError, match="No token"):
        find_target()


def test_an_ibm_api_key_is_not_taken_for_our_token(profile: Path) -> None:
    del profile
    assert IBMServerlessClient(token="x" * 44)._target == ServerlessClient()._target
    assert IBMServerlessClient("x" * 44, "name", "instance", "channel")._target == ServerlessClient()._target


def test_without_profile_ibms_client_takes_what_it_is_given() -> None:
    target = IBMServerlessClient(token="ours", host="127.0.0.1:1")._target
    assert target == Target("127.0.0.1:1", "ours")


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"address": "x"})])
def test_a_damaged_profile_is_named(profile: Path, content: str) -> None:
    profile.write_text(content)
    with pytest.raises(ConfigurationError, match=r"profile.json cannot be read"):
        find_target()


@pytest.mark.parametrize(
    ("address", "encrypted"),
    [
        ("127.0.0.1:1", False),
        ("localhost:1", False),
        ("[::1]:1", False),
        ("example.org:443", True),
        ("https://127.0.0.1:1", True),
        ("http://example.org:80", False),
    ],
)
def test_tokens_leave_this_machine_encrypted_unless_told_otherwise(address: str, *, encrypted: bool) -> None:
    assert Target(address, "").encrypted is encrypted
