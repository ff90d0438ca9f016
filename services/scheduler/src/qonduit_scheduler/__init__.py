"""qonduit_scheduler."""
