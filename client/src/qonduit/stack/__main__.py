"""The supervisor of a stack that runs in the background: `python -m qonduit.stack OPTIONS REPORT_DESCRIPTOR`."""

import sys

from qonduit.stack.commands import options_from_json, run_in_background
from qonduit.stack.errors import StackError

if __name__ == "__main__":
    try:
        run_in_background(options_from_json(sys.argv[1]), int(sys.argv[2]))
    except StackError:
        sys.exit(1)  # Whoever started it has been told.
