"""The storage service: settings, wiring, serve."""

from __future__ import annotations

from qonduit_service_kit.lifecycle import main

from qonduit_storage.service import build
from qonduit_storage.settings import StorageSettings

if __name__ == "__main__":
    main("storage", StorageSettings, build)
