"""The gateway's database: the only package here that knows SQL.

The modules ending in `_rows` are functions on an open transaction; `engine` runs them off the event loop.
"""
