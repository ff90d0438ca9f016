"""Names of spaces and logs in storage.

A user's files are apart for each function of a provider: its program sees no others.
"""

from __future__ import annotations


def of_user(user: str) -> str:
    """Return the space of a user's own files."""
    return f"users/{user}"


def of_user_at(provider: str, function: str, user: str) -> str:
    """Return the space of a user's files for one function of a provider."""
    return f"functions/{provider}/{function}/{user}"


def of_provider(provider: str, function: str) -> str:
    """Return the space of a provider's own files for a function, which its users never see."""
    return f"providers/{provider}/{function}"


def provider_log(job_id: str) -> str:
    """Return the key of the log of a job that only the function's provider reads."""
    return f"{job_id}.provider"
