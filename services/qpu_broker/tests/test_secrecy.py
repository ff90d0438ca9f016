from __future__ import annotations

import subprocess
import sys

CODE = """
import ctypes, resource
from qonduit_qpu_broker.secrecy import keep_secrets
keep_secrets()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE))
"""
"""PR_GET_DUMPABLE is 3."""


def test_a_process_with_secrets_leaves_no_core_and_can_not_be_looked_into() -> None:
    out = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True).stdout
    assert out.split() == ["0", "0", "0"]
