"""qonduit_gateway."""
