"""What the tests have a zygote run besides programs."""

import threading


def start_thread() -> None:
    """A warm-up that makes forking unsafe."""
    threading.Thread(target=threading.Event().wait, daemon=True).start()
