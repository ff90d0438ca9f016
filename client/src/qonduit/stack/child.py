"""What a service's process is before it becomes the service: it asks to be ended with its supervisor.

    python -I -S child.py SUPERVISOR_PID COMMAND [ARGUMENT ...]

The request outlives the exec. It stands in a file of its own that imports next to nothing, since it runs before
every service. Where the system has no such request (it is Linux's), a supervisor that is killed leaves
services behind, which `qonduit down` ends.
"""

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask, check that the supervisor isn't gone already, and become the command."""
    supervisor, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - Only there.

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != supervisor:
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - No shell is wanted.


if __name__ == "__main__":
    main()
