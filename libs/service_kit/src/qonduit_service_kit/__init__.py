"""qonduit_service_kit."""
