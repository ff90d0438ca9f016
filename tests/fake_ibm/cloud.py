"""Identity, search and catalog: who somebody is and which instances they have."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Final

import jwt
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fake_ibm.state import Instance

_ALGORITHM: Final = "HS256"
_SCHEME: Final = "Bearer "


class Cloud:
    """The parts of the cloud that are not about quantum."""

    def __init__(self, instances: Sequence[Instance]) -> None:
        self._instances = instances
        self._key = secrets.token_bytes(32)
        self.lifetime_s = 3600
        """Of the tokens that are given out from now on."""
        self.tokens_given = 0

    def routes(self) -> list[web.RouteDef]:
        """Return what it serves."""
        return [
            web.post("/identity/token", self._token),
            web.post("/v3/resources/search", self._search),
            web.get("/catalog/{plan:.*}", self._catalog),
        ]

    def instance_of(self, request: web.Request) -> Instance | None:
        """Return the instance that a request is for, if its token may use it."""
        key = self._api_key(request.headers.get("Authorization", ""))
        crn = request.headers.get("Service-CRN", "")
        return next((found for found in self._instances if found.crn == crn and key in found.api_keys), None)

    def _api_key(self, authorization: str) -> str:
        if not authorization.startswith(_SCHEME):
            return ""
        try:
            claims = jwt.decode(authorization.removeprefix(_SCHEME), self._key, algorithms=[_ALGORITHM])
        except jwt.InvalidTokenError:
            return ""
        return str(claims["sub"])

    async def _token(self, request: web.Request) -> web.Response:
        key = str((await request.post()).get("apikey", ""))
        if not any(key in instance.api_keys for instance in self._instances):
            error = {"errorCode": "BXNIM0415E", "errorMessage": "Provided API key could not be found."}
            return web.json_response(error, status=400)
        now = int(time.time())
        self.tokens_given += 1
        claims = {"sub": key, "iat": now, "exp": now + self.lifetime_s, "jti": str(self.tokens_given)}
        return web.json_response(
            {
                "access_token": jwt.encode(claims, self._key, algorithm=_ALGORITHM),
                "refresh_token": "not_supported",
                "token_type": "Bearer",
                "expires_in": self.lifetime_s,
                "expiration": now + self.lifetime_s,
            }
        )

    async def _search(self, request: web.Request) -> web.Response:
        key = self._api_key(request.headers.get("Authorization", ""))
        items = [
            {
                "crn": instance.crn,
                "name": instance.name,
                "service_plan_unique_id": f"plan-{instance.plan}",
                "tags": [],
                "doc": {"extensions": {"backends": "all"}},
            }
            for instance in self._instances
            if key in instance.api_keys
        ]
        return web.json_response({"items": items, "limit": 100})

    async def _catalog(self, request: web.Request) -> web.Response:
        plan = request.match_info["plan"].removeprefix("plan-")
        pricing = "free" if plan == "open" else "paygo"
        return web.json_response(
            {"overview_ui": {"en": {"display_name": plan}}, "metadata": {"pricing": {"type": pricing}}}
        )
