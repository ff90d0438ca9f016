"""qonduit."""
