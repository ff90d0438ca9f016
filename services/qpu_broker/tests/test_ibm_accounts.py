from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from qonduit_qpu_broker.ibm.accounts import AccountsError, read_accounts

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "ibm-secret-key"


def _write(folder: Path, content: object, mode: int = 0o600) -> Path:
    path = folder / "accounts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return path


def test_accounts_have_what_ibm_allows_as_defaults(tmp_path: Path) -> None:
    (account,) = read_accounts(_write(tmp_path, {"accounts": [{"name": "lab", "token": TOKEN}]}))
    assert (account.name, account.token.get_secret_value(), account.submissions_a_minute) == ("lab", TOKEN, 5)
    assert TOKEN not in repr(account)


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        ({"accounts": [{"name": "lab", "token": TOKEN}]}, 0o640, "chmod 600"),
        ({"accounts": [{"name": "lab", "tokn": TOKEN}]}, 0o600, "accounts.0.token: Field required"),
        ({"accounts": [{"name": "lab", "token": [TOKEN]}]}, 0o600, "accounts.0.token"),
        ({"accounts": [{"name": "lab", "token": TOKEN, "jobs_at_once": 0}]}, 0o600, "greater than or equal to 1"),
        ({"accounts": []}, 0o600, "at least 1 item"),
        ({"accounts": [{"name": "lab", "token": TOKEN}] * 2}, 0o600, "two accounts have the same name"),
        (f'{{"accounts": [{{"token": "{TOKEN}"', 0o600, "is not JSON (line 1)"),
    ],
)
def test_what_is_wrong_is_said_without_the_token(tmp_path: Path, content: object, mode: int, says: str) -> None:
    with pytest.raises(AccountsError) as caught:
        read_accounts(_write(tmp_path, content, mode))
    assert says in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(AccountsError, match="can't be read: No such file"):
        read_accounts(tmp_path / "accounts.json")
