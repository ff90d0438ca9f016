"""Logs: bytes that only grow, of which the newest are kept."""
