"""Errors in the shape that the runtime API gives them."""

from __future__ import annotations

import json

from aiohttp import web


def document(status: int, message: str, *, solution: str = "") -> bytes:
    """Return an error's body as the API words it."""
    error = {"code": status, "message": message, "solution": solution, "more_info": ""}
    return json.dumps({"errors": [error], "trace": ""}).encode()


def problem(status: int, message: str, *, solution: str = "") -> web.Response:
    """Return an error as an answer."""
    body = document(status, message, solution=solution)
    return web.Response(status=status, body=body, content_type="application/json")


def unauthorized() -> web.Response:
    """Return the answer to a token that is not this program's."""
    return problem(
        401,
        "This token is not the program's own.",
        solution="Call QiskitRuntimeService() without a token: programs here are known by their environment.",
    )


def unknown_api_key() -> web.Response:
    """Return what the identity service says to an API key it does not know."""
    error = {"errorCode": "BXNIM0415E", "errorMessage": "Provided API key could not be found."}
    return web.json_response(error, status=400)
