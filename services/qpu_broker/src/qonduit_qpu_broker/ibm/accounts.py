"""The accounts that the broker uses: from a file that only its user can read, or from the environment.

The file is JSON:

    {"accounts": [{"name": "lab", "token": "...", "instances": ["crn:v1:..."], "exclusive": true}]}
"""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

if TYPE_CHECKING:
    from pathlib import Path

    from qonduit_qpu_broker.settings import QpuBrokerSettings

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class AccountsError(Exception):
    """The accounts can't be used; the text says what to do, and holds nothing secret."""


class Account(BaseModel):
    """One IBM Cloud account, or one service id of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, description="What people call it; shown in `qonduit qpu status`.")
    token: SecretStr = Field(min_length=1, description="Its API key.")
    url: str = Field(default="https://cloud.ibm.com", description="Where it is.")
    instances: tuple[str, ...] = Field(default=(), description="CRNs or names of the instances to use; empty for all.")
    exclusive: bool = Field(
        default=False,
        description="Whether nobody else uses it: then sessions that the broker does not know are closed.",
    )
    submissions_a_minute: int = Field(default=5, ge=1, description="IBM's limit of POST /jobs.")
    jobs_a_device: int = Field(
        default=5, ge=1, description="Most jobs that are at one device of one instance at a time."
    )
    jobs_at_once: int = Field(
        default=50, ge=1, description="Most jobs that are at one instance at a time (3 with the open plan)."
    )


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    accounts: tuple[Account, ...] = Field(min_length=1)


def read_accounts(path: Path) -> tuple[Account, ...]:
    """Return the accounts of a file.

    Raises:
        AccountsError: It is missing, others may read it, or something in it is wrong.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            text = file.read()
    except OSError as error:
        raise AccountsError(f"The accounts file {path} can't be read: {error.strerror}.") from None
    if mode & _OTHERS:
        raise AccountsError(f"Others may read {path} (mode {mode:04o}): `chmod 600 {path}`.")
    try:
        accounts = _File.model_validate(json.loads(text)).accounts
    except ValidationError as error:
        # Never with what was found: that may be a token.
        where = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False)
        )
        raise AccountsError(f"In the accounts file {path}: {where}.") from None
    except ValueError as error:
        position = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise AccountsError(f"The accounts file {path} is not JSON{position}.") from None
    names = [account.name for account in accounts]
    if len(set(names)) < len(names):
        raise AccountsError(f"In the accounts file {path}: two accounts have the same name.")
    return accounts


def accounts_of(settings: QpuBrokerSettings) -> tuple[Account, ...]:
    """Return the accounts that the settings name; AccountsError."""
    if settings.ibm_accounts_file is not None:
        return read_accounts(settings.ibm_accounts_file)
    return (
        Account(
            name="ibm",
            token=settings.ibm_token,
            url=settings.ibm_url,
            instances=(settings.ibm_instance,) if settings.ibm_instance else (),
        ),
    )
