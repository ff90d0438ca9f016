"""What the tests have a zygote run besides programs."""

import importlib
import threading


def start_thread() -> None:
    """A warm-up that makes forking unsafe."""
    threading.Thread(target=threading.Event().wait, daemon=True).start()


def import_more() -> None:
    """A warm-up that imports what its base has not."""
    importlib.import_module("import_marker")
