"""qonduit_worker."""
