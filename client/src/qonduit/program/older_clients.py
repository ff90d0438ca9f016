"""Brings clients that a function names for itself to the QPU endpoint, also those too old to be told by variables."""

from __future__ import annotations

import functools
import os
import warnings
from typing import Any, Final

TOLD_BY_ENVIRONMENT: Final = (0, 49)
"""From here on the client reads all the addresses it asks from its environment."""
OLDEST: Final = (0, 43)
"""What older clients need is not known."""
_ADDRESSES: Final = {
    "get_iam_api_url": "IAM_URL",
    "get_global_search_api_url": "GLOBAL_SEARCH_URL",
    "get_global_catalog_api_url": "GLOBAL_CATALOG_URL",
}


def lead_older_client() -> None:
    """Have a client before 0.49 ask the endpoint for identity, search and catalog too.

    It works these addresses out from the URL of the service, and would ask hosts that don't exist in a sandbox. One
    that is older still is said to be so: what it tells by itself is that the token is wrong.
    """
    import qiskit_ibm_runtime  # noqa: PLC0415 -- imported by the program, or being so.

    version = _version(qiskit_ibm_runtime.__version__)
    if version >= TOLD_BY_ENVIRONMENT:
        return
    if version < OLDEST:
        warnings.warn(
            f"qiskit-ibm-runtime {qiskit_ibm_runtime.__version__} is too old to reach QPUs from here: name "
            f"qiskit-ibm-runtime>={'.'.join(map(str, OLDEST))} in the function's dependencies, or none.",
            stacklevel=2,
        )
        return
    from qiskit_ibm_runtime.accounts import account  # noqa: PLC0415
    from qiskit_ibm_runtime.api import auth  # noqa: PLC0415

    # Until 0.45 the channel ibm_cloud has a constant of its own.
    account.IBM_CLOUD_API_URL = os.environ["QISKIT_IBM_URL"]
    for name, variable in _ADDRESSES.items():
        setattr(account, name, functools.partial(_known, os.environ[variable]))
    auth.IAMTokenManager = functools.partial(_token_manager, auth.IAMTokenManager)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


def _known(address: str, _service: str) -> str:
    return address


def _token_manager(make: Any, api_key: str, **options: Any) -> Any:
    return make(api_key, **(options | {"url": os.environ["IAM_URL"]}))
