"""What callers may do with functions, and what they are told where they may not.

What somebody may not see is refused like what is not there: by the same lines, with nothing in the text that tells them
apart.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import grpc
from qonduit_service_kit.errors import ApiError

from qonduit_gateway.database import function_rows, grant_rows
from qonduit_gateway.functions.model import FunctionName
from qonduit_gateway.providers.access import OWNER, Action, Place, access_at

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from qonduit_gateway.providers.access import Access

_NAMES_COMPARED = 200
_NAME_COMPARED_CHARS = 255


def access_to(connection: Connection, user: str, name: FunctionName) -> Access:
    """Return what a user may do with a function, whether it is there or not."""
    return grant_rows.access_of(connection, user, name.place) if name.provider else OWNER


def require(connection: Connection, user: str, place: Place, action: Action) -> Access:
    """Return what a user may do at a place where they may do this; ApiError where they may not."""
    held = grant_rows.held(connection, user, [place.provider])
    access = access_at(place, held)
    if not place.title:
        if not held:
            raise provider_not_found(place.provider)
    else:
        name = FunctionName(place.title, provider=place.provider)
        if not (access.allows(Action.SEE) and function_rows.is_there(connection, name)):
            raise function_not_found(connection, user, name)
    check(access, place, action)
    return access


def check(access: Access, place: Place, action: Action) -> None:
    """Raise ApiError where a user may not do something with what they may see."""
    if not access.allows(action):
        text = (
            f"You may see {str(place)[:400]!r}, but not {action.value}. "
            f"Ask an administrator of the provider {place.provider!r} for a role that allows it."
        )
        metadata = {"provider": place.provider, "function_title": place.title}
        raise ApiError(grpc.StatusCode.PERMISSION_DENIED, "ROLE_MISSING", text, metadata=metadata)


def place_of(text: str) -> Place:
    """Return the place that "provider" or "provider/title" names; ApiError if it names none."""
    provider, slash, title = text.partition("/")
    if not provider or (slash and not title):
        raise invalid_name(text, "'provider', for all of its functions, or 'provider/title'")
    return Place(provider, title)


def function_place(text: str) -> Place:
    """Return the place that "provider/title" names; ApiError if it names none."""
    place = place_of(text) if "/" in text else Place("")
    if not place.title:
        raise invalid_name(text, "'provider/title'")
    return place


def invalid_name(text: str, wanted: str) -> ApiError:
    """Return the refusal of a name."""
    said = f"{text[:200]!r} names no function of a provider. Write {wanted}."
    return ApiError(
        grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FUNCTION_NAME", said, violations={"function": f"Write {wanted}."}
    )


def provider_not_found(provider: str) -> ApiError:
    """Return the refusal of a provider that is not there, as far as the caller is concerned."""
    text = (
        f"There is no provider {provider[:100]!r} of which you may see anything. "
        "List the providers to see which there are for you."
    )
    return ApiError(grpc.StatusCode.NOT_FOUND, "PROVIDER_NOT_FOUND", text, metadata={"provider": provider[:100]})


def function_not_found(connection: Connection, user: str, name: FunctionName, version: str = "") -> ApiError:
    """Return the refusal of a function that is not there, as far as the caller is concerned."""
    whose = grant_rows.visible_to(user) if name.provider else function_rows.owned_by(user)
    hint = _hint(name, function_rows.names(connection, whose))
    seen = " that you may see" if name.provider else ""
    return ApiError(
        grpc.StatusCode.NOT_FOUND,
        "FUNCTION_NOT_FOUND",
        f"There is no function {str(name)!r}{seen}. {hint}",
        metadata={"function_title": str(name), "function_version": version},
    )


def _hint(name: FunctionName, names: list[str]) -> str:
    # Comparing takes time with the product of all lengths, in which nobody else would be served.
    compared = names[:_NAMES_COMPARED] if len(str(name)) <= _NAME_COMPARED_CHARS else []
    close = difflib.get_close_matches(str(name), compared, n=3, cutoff=0.6)
    if close:
        return f"Did you mean {' or '.join(repr(each) for each in close)}?"
    if name.provider:
        return "List the functions of providers to see which there are for you, or ask the provider for a role."
    if not names:
        return "You have uploaded none yet: upload it first."
    return "Upload it first, or list your functions to see what there is."
