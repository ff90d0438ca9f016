"""Keeps what the process knows out of files and of other processes' reach."""

from __future__ import annotations

import ctypes
import resource

from qonduit_service_kit.logs import get_logger

_log = get_logger("secrecy")
_PR_SET_DUMPABLE = 4


def keep_secrets() -> None:
    """Have no core dump written, and no other process of this user look into this one's memory or environment."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        _log.warning("this process can be looked into", errno=ctypes.get_errno())
