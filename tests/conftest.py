"""Fixtures that every test outside a service may use."""

pytest_plugins = ["qonduit_service_kit.testing"]
