"""Which functions are accepted. Each rule returns a sentence that says what to do, by field."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qonduit_gateway.functions.model import FunctionSpec

ENVIRONMENT_LIMIT_BYTES = 16 * 1024
DEPENDENCIES_LIMIT_BYTES = 16 * 1024
DESCRIPTION_LIMIT_CHARS = 16 * 1024
ENTRYPOINT_LIMIT_CHARS = 1024

_TITLE = re.compile(r"[A-Za-z0-9_.-]{1,255}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{8,64}")
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
LATEST = "latest"
"""The alias that each upload sets."""
PROVIDER_LIMIT_CHARS = 64


def broken_rules(spec: FunctionSpec, artifact_digest: str) -> dict[str, str]:
    """Return what is wrong with a function, by field; empty when it is good."""
    found = {
        "spec.title": _title(spec.title),
        "spec.entrypoint": _entrypoint(spec.entrypoint),
        "spec.dependencies": _dependencies(spec.dependencies),
        "spec.env_vars": _environment(spec.environment),
        "spec.description": _description(spec.description),
        "spec.version_label": _version_label(spec.version_label),
        "artifact_digest": "" if is_digest(artifact_digest) else "Give the sha256 as 64 hexadecimal digits.",
    }
    return {name: text for name, text in found.items() if text}


def is_digest(text: str) -> bool:
    """Tell whether a text is a sha256 in lower-case hexadecimal."""
    return _DIGEST.fullmatch(text) is not None


def names_digest(text: str) -> bool:
    """Tell whether a text is a version's digest, or enough of its beginning."""
    return _PREFIX.fullmatch(text) is not None


def broken_alias_rule(alias: str) -> str:
    """Return what is wrong with an alias; empty when it is good."""
    if not _ALIAS.fullmatch(alias):
        return "Use 1 to 64 letters, digits, '_', '-' or '.', a letter first, for example 'stable'."
    if names_digest(alias):
        return f"{alias!r} could be a version's digest; choose another word."
    return ""


def broken_name_rule(name: str) -> str:
    """Return what is wrong with the name of a provider or a group; empty when it is good."""
    if _TITLE.fullmatch(name) and len(name) <= PROVIDER_LIMIT_CHARS and name.strip("."):
        return ""
    return f"Use 1 to {PROVIDER_LIMIT_CHARS} letters, digits, '_', '-' or '.', and not only dots, for example 'acme'."


def broken_title_rule(title: str) -> str:
    """Return what else is wrong with the title of a provider's function, which names a folder of files; or empty."""
    return "" if title.strip(".") else "Do not use dots alone."


def _title(title: str) -> str:
    if _TITLE.fullmatch(title):
        return ""
    return "Use 1 to 255 letters, digits, '_', '-' or '.', for example 'my-function'."


def _entrypoint(entrypoint: str) -> str:
    if not entrypoint:
        return "Name the program to start, relative to the working directory, for example 'program.py'."
    path = PurePosixPath(entrypoint)
    if path.is_absolute() or "\\" in entrypoint or "\0" in entrypoint:
        return f"Name the program relative to the working directory; {entrypoint!r} is not."
    if ".." in path.parts:
        return f"{entrypoint!r} leaves the working directory; put the program inside it."
    if path.suffix != ".py":
        return f"{entrypoint!r} is no Python program; its name must end in '.py'."
    if len(entrypoint) > ENTRYPOINT_LIMIT_CHARS or path.as_posix() != entrypoint:
        return f"Write the path in its plain form, such as {path.as_posix()[:100]!r}."
    return ""


def _dependencies(dependencies: Sequence[str]) -> str:
    if sum(len(each.encode()) for each in dependencies) > DEPENDENCIES_LIMIT_BYTES:
        return f"All requirements together may have {DEPENDENCIES_LIMIT_BYTES} bytes."
    for each in dependencies:
        try:
            Requirement(each)
        except InvalidRequirement as error:
            reason = str(error).splitlines()[0]
            return f"{each!r} is not a requirement such as 'numpy>=2': {reason}"
    return ""


def _environment(variables: Mapping[str, str]) -> str:
    for name, value in variables.items():
        if not _VARIABLE.fullmatch(name):
            return f"{name!r} is not a name for a variable: use letters, digits and '_', no digit first."
        if "\0" in value:
            return f"The value of {name} holds a NUL, which no environment can carry."
    size = sum(len(name.encode()) + len(value.encode()) for name, value in variables.items())
    if size > ENVIRONMENT_LIMIT_BYTES:
        return (
            f"All variables together may have {ENVIRONMENT_LIMIT_BYTES} bytes and have {size}; put the rest in a file."
        )
    return ""


def _description(description: str) -> str:
    if len(description) > DESCRIPTION_LIMIT_CHARS:
        return f"Use at most {DESCRIPTION_LIMIT_CHARS} characters."
    return ""


def _version_label(label: str) -> str:
    if not label:
        return ""
    try:
        Version(label)
    except InvalidVersion:
        return f"{label!r} is not a version such as '1.2.0' (PEP 440)."
    return ""
