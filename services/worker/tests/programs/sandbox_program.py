"""What the tests run inside sandboxes: code that they pass in the environment."""

import os


def run_code() -> None:
    """Run the test's own lines as the program."""
    exec(os.environ["CODE"], {"__name__": "__program__"})  # noqa: S102 - the tests wrote it.


def start_thread() -> None:
    """A warm-up that makes forking unsafe."""
    import threading  # noqa: PLC0415

    threading.Thread(target=threading.Event().wait, daemon=True).start()
