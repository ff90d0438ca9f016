"""The runtime API as programs' clients see it."""
