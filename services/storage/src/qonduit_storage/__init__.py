"""qonduit_storage."""
