"""Who a program is at its endpoint: a token that stands for this attempt of this job and nothing else."""

from __future__ import annotations

import hmac
import secrets
import time
from typing import TYPE_CHECKING, Any, Final

import jwt

if TYPE_CHECKING:
    from collections.abc import Callable

INSTANCE: Final = (
    "crn:v1:bluemix:public:quantum-computing:us-east:a/00000000000000000000000000000000:"
    "00000000-0000-4000-8000-000000000000::"
)
"""The one instance there is, in the only form that the client takes for an instance."""
INSTANCE_NAME: Final = "qonduit"
PLAN: Final = "qonduit-plan"
BASE: Final = "/experimental/api/v1"
"""The client uses a URL as it is, with its port, only if it has 'experimental' in it."""
CATALOG: Final = "/catalog"
_LIFETIME_S: Final = 3600
_ALGORITHM: Final = "HS256"


class Identity:
    """The secret of one program and the short-lived tokens made from it.

    A token names the job that it stands for, and is signed with a key that only this endpoint has and that ends with
    it: no token of another program, another attempt or an earlier agent is good here.
    """

    def __init__(self, job_id: str, clock: Callable[[], float] = time.time) -> None:
        self._job_id = job_id
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self.token = secrets.token_urlsafe(32)
        """What the program's environment carries where an API key would be."""

    def knows(self, api_key: str) -> bool:
        """Whether this is the program's own token."""
        return hmac.compare_digest(api_key.encode(errors="surrogateescape"), self.token.encode())

    def access_token(self) -> dict[str, Any]:
        """Return what the identity service answers: a token for an hour."""
        now = int(self._clock())
        claims = {"sub": self._job_id, "iat": now, "exp": now + _LIFETIME_S}
        return {
            "access_token": jwt.encode(claims, self._key, algorithm=_ALGORITHM),
            "refresh_token": "not_supported",
            "token_type": "Bearer",
            "expires_in": _LIFETIME_S,
            "expiration": now + _LIFETIME_S,
            "scope": "ibm openid",
        }

    def is_bearer(self, authorization: str) -> bool:
        """Whether an Authorization header has the program's own token as the client of Qiskit Serverless sends one."""
        scheme, _, credential = authorization.partition(" ")
        return scheme.lower() == "bearer" and self.knows(credential.strip())

    def admits(self, authorization: str) -> bool:
        """Whether an Authorization header is this program's."""
        scheme, _, credential = authorization.partition(" ")
        if scheme.lower() == "apikey":
            return self.knows(credential)
        if scheme.lower() != "bearer":
            return False
        try:
            jwt.decode(
                credential,
                self._key,
                algorithms=[_ALGORITHM],
                subject=self._job_id,
                options={"require": ["exp", "iat", "sub"]},
            )
        except (jwt.InvalidTokenError, UnicodeEncodeError):
            return False
        return True


def environment(port: int, token: str) -> dict[str, str]:
    """Return the variables that bring the clients to an endpoint on a loopback port."""
    root = f"http://127.0.0.1:{port}"
    return {
        "ENV_JOB_GATEWAY_HOST": root,
        "ENV_JOB_GATEWAY_TOKEN": token,
        "ENV_JOB_GATEWAY_INSTANCE": INSTANCE,
        "QISKIT_IBM_CHANNEL": "ibm_quantum_platform",
        "QISKIT_IBM_TOKEN": token,
        "QISKIT_IBM_URL": root + BASE,
        "QISKIT_IBM_INSTANCE": INSTANCE,
        "IAM_URL": root,
        "GLOBAL_SEARCH_URL": root,
        "GLOBAL_CATALOG_URL": root + CATALOG,
        "NO_PROXY": "127.0.0.1",
        "USAGE_DATA_OPT_OUT": "True",
    }


def search_document() -> dict[str, Any]:
    """Return what the resource search finds: the one instance."""
    return {
        "items": [
            {
                "crn": INSTANCE,
                "name": INSTANCE_NAME,
                "service_plan_unique_id": PLAN,
                "tags": [],
                # The client drops instances without extensions.
                "doc": {"extensions": {"backends": True}},
            }
        ],
        "limit": 100,
    }


def catalog_document() -> dict[str, Any]:
    """Return the catalog's entry of the instance's plan."""
    return {
        "id": PLAN,
        "name": INSTANCE_NAME,
        "overview_ui": {"en": {"display_name": INSTANCE_NAME}},
        "metadata": {"pricing": {"type": "paid"}},
    }


def usage_document(consumed_s: float, budget_s: float | None) -> dict[str, Any]:
    """Return the instance's usage: what this program was charged so far, of the job's budget if it has one."""
    limit = {} if budget_s is None else {"usage_limit_seconds": budget_s}
    return {
        "instance_id": INSTANCE,
        "plan_id": PLAN,
        "usage_consumed_seconds": round(consumed_s, 3),
        **limit,
        "usage_limit_reached": budget_s is not None and consumed_s >= budget_s,
        "usage_period": {},
    }
